"""The trainers that a round makes of the one it was given: of many clients, of losses alone."""

from __future__ import annotations

from dataclasses import replace

from jsplit.core.trainer import Trainer
from jsplit.rounds.round_method import check_trainer
from jsplit.topology.metrics import Metric
from jsplit.training.config import Config
from jsplit.training.evaluating import ScalarLosses
from jsplit.training.fused import fused
from jsplit.training.kinds import WireKind


def fused_of(config: Config) -> Trainer:
    """A trainer of a configuration, of one program in one program."""
    links = {}
    for _, value in config.links:
        links[value] = (
            config.links.get((WireKind.ACTIVATION, value)),
            config.links.get((WireKind.COTANGENT, value)),
        )
    return fused(
        config.topology,
        config.optimizer,
        links=links,
        backward=config.backward,
        mesh=config.mesh,
        kernels=config.kernels,
        nonfinite=config.nonfinite,
        loss_scale=config.loss_scale,
    )


def losses_trainer(trainer: Trainer, scalars: ScalarLosses) -> Trainer:
    """A trainer whose `evaluate` can be part of a program: it gives losses and no metrics.

    Args:
        trainer: of one client.
        scalars: watches its losses of weight 0.
    """
    config = check_trainer(trainer)
    topology = config.topology
    # Most have neither, and are measured by the very function that users call.
    if not topology.metrics and all(x.weight for x in topology.losses):
        return trainer
    parts = [n for n in topology.nodes if not isinstance(n, Metric)]
    measured = replace(topology, nodes=parts)
    crossing = {c.name for c in measured.crossings}
    links = {at: x for at, x in config.links.items() if at[1] in crossing}
    return fused_of(scalars.watch(config._replace(topology=measured, links=links)))
