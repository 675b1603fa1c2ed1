"""A training step as a walk: forward in order, and backward in reverse by `jax.vjp` at every cut.

Every interpreter runs these same operations, so every interpreter gives
the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node
from jsplit.training.config import Config
from jsplit.training.cotangents import cotangents, needs_vjp, returned
from jsplit.training.crossing import crossing_ops
from jsplit.training.kinds import Kind, WireKind
from jsplit.training.losses import loss_and_cotangents_op, loss_op
from jsplit.training.pulled_back import pull_ops
from jsplit.training.segment_ops import backward_op, forward_op
from jsplit.training.walk import Name, Op, Wire


def training_ops(config: Config) -> list[Op]:
    """Forward and backward over one batch, or one micro-batch."""
    losses = config.topology.losses
    return _forward_ops(config, losses, train=True) + _backward_ops(config)


def inference_ops(
    config: Config, losses: Sequence[Loss] = (), metrics: Sequence[Metric] = ()
) -> list[Op]:
    """The forward pass in inference mode, and `losses` without their cotangents.

    What `metrics` read is sent to their parties; they are computed elsewhere, of a
    whole set at once.
    """
    # A batch is not divided in inference, so no key depends on a
    # micro-batch.
    config = config._replace(microbatches=1)
    ops = _forward_ops(config, (*losses, *metrics), train=False)
    return ops + [loss_op(config, loss) for loss in losses]


def looking_ops(config: Config) -> list[Op]:
    """The forward pass in inference mode, with all that losses and metrics read sent."""
    topology = config.topology
    readers = (*topology.losses, *topology.metrics)
    return _forward_ops(config._replace(microbatches=1), readers, train=False)


def _forward_ops(
    config: Config, losses: Sequence[Loss | Metric], *, train: bool
) -> list[Op]:
    """Run all segments, and send what they and `losses` read."""
    ops: list[Op] = []
    arrived: set[tuple[str, str]] = set()
    node_of = config.topology.node

    for reader in (*config.topology.segments, *losses):
        for i in reader.reads:
            # A value goes to a party once, however many of its nodes
            # read it.
            elsewhere = i in node_of and node_of[i].party != reader.party
            if elsewhere and (i, reader.party) not in arrived:
                arrived.add((i, reader.party))
                sender = node_of[i].party
                ops += crossing_ops(
                    config,
                    Wire(WireKind.ACTIVATION, i, sender, reader.party),
                    [Name(sender, Kind.VALUE, i)],
                    Name(reader.party, Kind.VALUE, i),
                    train=train,
                )
        if isinstance(reader, Node):
            ops.append(forward_op(config, reader, train))
    return ops


def _backward_ops(config: Config) -> list[Op]:
    """From the losses back, every node after all that read its value.

    A cotangent is sent as soon as it is whole.
    """
    topology = config.topology
    ops: list[Op] = []
    for loss in topology.losses:
        # A metric has a value, but nothing is differentiated for it.
        if loss.differentiable_inputs:
            ops.append(loss_and_cotangents_op(config, loss))
        else:
            ops.append(loss_op(config, loss, train=True))

    for node in reversed(topology.segments):
        for c in topology.crossings:
            if c.name == node.name and c.returns:
                wire = Wire(WireKind.COTANGENT, c.name, c.receiver, c.sender)
                received = returned(c.sender, c.name, c.receiver)
                sent = cotangents(config, c.name, c.receiver)
                ops += crossing_ops(config, wire, sent, received)
                ops += pull_ops(config, wire, received)
        if needs_vjp(config, node):
            ops.append(backward_op(config, node))
    return ops
