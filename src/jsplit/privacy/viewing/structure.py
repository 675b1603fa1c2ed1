"""What messages depend on by the topology alone, before any segment is looked into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.kinds import WireKind
from jsplit.training.walk import Wire


class Depends(NamedTuple):
    """What a message depends on.

    Attributes:
        fields: names of fields, in the topology's order.
        nodes: nodes whose parameters or statistics it depends on, in that order.
    """

    fields: tuple[str, ...]
    nodes: tuple[str, ...]


def labels_of(topology: Topology) -> tuple[str, ...]:
    """The fields that losses and metrics read, and no node: what is predicted.

    A penalty reads what its party has; that makes an image no label.
    """
    by_nodes = {i for n in topology.segments for i in n.reads}
    readers = [x for x in topology.losses if not x.local]
    read = {i for x in (*readers, *topology.metrics) for i in x.reads}
    return tuple(f for f in topology.fields if f in read - by_nodes)


def depends(topology: Topology, wire: Wire) -> Depends:
    """What a message can depend on at most.

    Args:
        topology: who computes what.
        wire: the message.
    """
    if wire.kind == WireKind.ACTIVATION:
        return _before(topology, [wire.what])
    # Numbers for sums are of gradients and losses, so of all there is.
    losses = topology.losses
    if wire.kind == WireKind.COTANGENT:
        losses = _after(topology, wire)
    read = [
        i.removesuffix(".params").removesuffix(".state")
        for x in losses
        for i in x.reads
    ]
    return _before(topology, read)


def _before(topology: Topology, names: Iterable[str]) -> Depends:
    """The fields and nodes that values are made of."""
    found = {*names}
    for node in reversed(topology.segments):
        if node.name in found:
            found.update(node.reads)
    fields = tuple(f for f in topology.fields if f in found)
    trained = (n.name for n in topology.segments if n.segment.trainable)
    return Depends(fields, tuple(n for n in trained if n in found))


def _after(topology: Topology, wire: Wire) -> tuple[Loss, ...]:
    """The losses that a cotangent comes from."""
    found: set[str] = set()
    for node in topology.segments:
        # Those who read the value elsewhere send a cotangent of their own.
        here = node.party == wire.sender and wire.what in node.differentiable_inputs
        if here or found & {*node.differentiable_inputs}:
            found.add(node.name)

    def is_reached(loss: Loss) -> bool:
        read = loss.differentiable_inputs
        return bool(found & {*read}) or (
            loss.party == wire.sender and wire.what in read
        )

    return tuple(x for x in topology.losses if is_reached(x))
