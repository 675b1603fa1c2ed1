"""The trainers that a round makes of the one it was given: of many clients, of losses alone."""

from __future__ import annotations

from dataclasses import replace

from jsplit.core.trainer import Trainer
from jsplit.rounds.round_method import check_trainer
from jsplit.topology.metrics import Metric
from jsplit.training.evaluating import ScalarLosses
from jsplit.training.fused import fused_trainer


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
    return fused_trainer(scalars.watch(config._replace(topology=measured, links=links)))
