"""What crosses between parties: it follows from who makes a value and who reads it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node


class Crossing(NamedTuple):
    """A value that goes from the party that makes it to another party.

    Attributes:
        name: Name of the value.
        sender: The party that makes it.
        receiver: The party that reads it.
        returns: Whether its cotangent comes back.

    Example:
        >>> import jsplit
        >>> jsplit.Crossing("smashed", "hospital", "server", returns=True).sender
        'hospital'
    """

    name: str
    sender: str
    receiver: str
    returns: bool


def find_dependent(nodes: Sequence[Node]) -> frozenset[str]:
    """Values that depend on some parameter, of nodes in the order of a forward pass."""
    found: set[str] = set()
    # In the order of the computation, so that a node's inputs are judged before it.
    for n in nodes:
        inherits = any(i in found for i in n.differentiable_inputs)
        if n.segment.trainable or inherits:
            found.add(n.name)
    return frozenset(found)


def find_on_loss_path(
    nodes: Mapping[str, Node], losses: Sequence[Loss]
) -> frozenset[str]:
    """Values that some loss depends on, other than through parameters it reads itself."""
    found: set[str] = set()
    for loss in losses:
        for i in loss.differentiable_inputs:
            # What a segment sows comes from its forward pass, as its value does.
            # `.params` is left out: their gradient needs no backward pass.
            made = i if i in nodes else i.removesuffix(".state")
            if made in nodes:
                found.add(made)
    # Backwards, so that a node's readers are judged before it.
    for n in reversed([*nodes.values()]):
        if n.name in found:
            found.update(i for i in n.differentiable_inputs if i in nodes)
    return frozenset(found)


def find_crossings(
    nodes: Mapping[str, Node],
    losses: Sequence[Loss | Metric],
    depends_on_params: Container[str],
    on_loss_path: Container[str],
) -> tuple[Crossing, ...]:
    """Every crossing of a training step, in the order in which the values are made.

    Args:
        nodes: Nodes by name, in the order of a forward pass.
        losses: The losses and metrics of the topology.
        depends_on_params: Values for which a cotangent is of use.
        on_loss_path: Nodes that some loss depends on.
    """

    def has_cotangent(reader: Node | Loss | Metric, name: str) -> bool:
        trains = not isinstance(reader, Node) or reader.name in on_loss_path
        return trains and name in reader.differentiable_inputs

    # Two readers at one party get one message, and one cotangent of their sum goes
    # back: it does if either of them has one to give.
    found: dict[tuple[str, str, str], bool] = {}
    for reader in (*nodes.values(), *losses):
        for name in reader.reads:
            if name not in nodes or nodes[name].party == reader.party:
                continue
            ends = (name, nodes[name].party, reader.party)
            back = name in depends_on_params and has_cotangent(reader, name)
            found[ends] = found.get(ends, False) or back

    order = [*nodes]
    crossings = [Crossing(*ends, returns=back) for ends, back in found.items()]
    # The sort is stable: a value's receivers stay in the order in which they read it.
    return tuple(sorted(crossings, key=lambda c: order.index(c.name)))
