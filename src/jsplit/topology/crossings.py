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
