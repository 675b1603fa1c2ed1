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
    return _before(topology, [i for x in losses for i in _names(x)])


def taught(topology: Topology) -> dict[str, frozenset[str]]:
    """By node, the fields that its parameters are trained on, labels included.

    Whatever those parameters compute later tells of these fields too. A gradient also
    depends on the parameters of other nodes, and so on what these are trained on.

    Args:
        topology: of the nodes.
    """
    own: dict[str, Depends] = {}
    for n in topology.segments:
        losses = _teaching(topology, n.name) if n.segment.trainable else ()
        own[n.name] = _before(topology, [i for x in losses for i in _names(x)])
    found = {name: frozenset(d.fields) for name, d in own.items()}
    while True:
        more = {
            name: found[name].union(*(found[n] for n in d.nodes))
            for name, d in own.items()
        }
        # Sets only grow, and there are finitely many fields.
        if more == found:
            return found
        found = more


def _teaching(topology: Topology, name: str) -> tuple[Loss, ...]:
    """The losses whose gradient is of the parameters of a node."""
    lent = topology.loans.items()
    found = {name, *(reader for reader, x in lent if name in [i.owner for i in x])}
    for node in topology.segments:
        if found & {*node.differentiable_inputs}:
            found.add(node.name)
    own = f"{name}.params"
    return tuple(
        x
        for x in topology.losses
        if x.weight
        and (
            own in x.reads
            or found & {i.removesuffix(".state") for i in x.differentiable_inputs}
        )
    )


def _names(loss: Loss) -> list[str]:
    """The nodes and fields that a loss reads something of."""
    return [i.removesuffix(".params").removesuffix(".state") for i in loss.reads]


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
