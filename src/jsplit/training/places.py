"""Where the values lie that `predict` gives: outputs, or by name what crossed to whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.topology.graph import Topology
from jsplit.training.kinds import Kind, WireKind
from jsplit.training.recording import arrived
from jsplit.training.walk import Address, Name, Op, Store, Walk, Wire
from jsplit.training.walks import Walks

At = tuple[str, ...] | None
"""The names of the values that are asked for; `None`: those that no node reads."""


class _Place(NamedTuple):
    """Where one value lies: at a party, and the message it came in if it came in one."""

    party: str
    name: Name
    wire: Wire | None


def as_at(topology: Topology, at: str | Sequence[str] | None) -> At:
    """Check what `predict` is asked for.

    Args:
        topology: whose values there are.
        at: a name or several, as the user gave them.

    Returns:
        The names.

    Raises:
        ValueError: if one is of nothing that crosses and no output.
    """
    if at is None:
        return None
    # What is no list is refused below, whatever it is.
    listed = isinstance(at, (list, tuple))
    names: tuple[str, ...] = tuple(at) if listed else (cast(str, at),)
    crossing = dict.fromkeys(c.name for c in topology.crossings)
    there = [*crossing, *(n for n in topology.sinks if n not in crossing)]
    for name in names:
        if name not in there:
            raise ValueError(
                f"`at` must name values that cross, or outputs, got {shown(name)}; there "
                f"are {', '.join(there)}."
            )
    if not names:
        raise ValueError(f"`at` names nothing; there are {', '.join(there)}.")
    return names


def _places(topology: Topology, name: str) -> list[_Place]:
    """Where a value lies that crosses, at each receiver, or that is an output."""
    found: list[_Place] = []
    for c in topology.crossings:
        if c.name == name:
            wire = Wire(WireKind.ACTIVATION, name, c.sender, c.receiver)
            found.append(_Place(c.receiver, Name(c.receiver, Kind.VALUE, name), wire))
    party = topology.node[name].party
    return found or [_Place(party, Name(party, Kind.VALUE, name), None)]


def walk_to(topology: Topology, walks: Walks, at: At) -> Walk:
    """The part of the forward pass that gives what is asked for.

    Args:
        topology: who computes what.
        walks: of the training.
        at: as `as_at` gives it.
    """
    if at is None:
        return walks.infer
    wanted: set[Address] = set()
    for name in at:
        for place in _places(topology, name):
            wanted |= {place.name} if place.wire is None else {place.name, place.wire}
    ops: list[Op] = []
    needed = {*wanted}
    # From the end back: an operation is run if one after it reads what it writes.
    for op in reversed(walks.look.ops):
        if needed & {*op.writes}:
            ops.append(op)
            needed |= {*op.reads}
    return Walk(tuple(ops[::-1]), frozenset(wanted))


def values_at(topology: Topology, at: At, store: Store) -> dict[str, PyTree]:
    """What `predict` gives, from the store that its walk leaves.

    Args:
        topology: who computes what.
        at: as `as_at` gives it.
        store: after `walk_to`.
    """
    found: dict[str, PyTree] = {}
    for name in topology.sinks if at is None else at:
        if at is None:
            found[name] = store[Name(topology.node[name].party, Kind.VALUE, name)]
            continue
        values = {
            place.party: store[place.name]
            if place.wire is None
            else arrived(store[place.wire], store[place.name])
            for place in _places(topology, name)
        }
        # Links draw for each receiver anew, so two may have decoded two values.
        found[name] = values if len(values) > 1 else next(iter(values.values()))
    return found
