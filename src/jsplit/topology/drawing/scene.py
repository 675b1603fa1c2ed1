"""A topology as items and wires: what there is to draw, before anything has a place.

Every crossing is exactly one wire; a value that several nodes of its
receiver read arrives once, at a fork.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node, NodeKind, kind_of
from jsplit.topology.own_values import carried_over

HIGH = 0.48  # of a segment or a field, inches
_LOW = 0.36  # of a loss, a metric or a penalty
_FORK = 0.08


class ItemKind(StrEnum):
    """What an item stands for; the value is what a legend calls it."""

    DATA = "data"
    LABELS = "labels"
    SEGMENT = "segment"
    LOSS = "loss"
    METRIC = "metric"
    PENALTY = "penalty"
    FORK = "fork"  # a value with several readers at one party
    PANEL = "panel"  # a party
    LANE = "lane"  # a place in a line of items, kept free for a wire

    # Enum's own hash is a Python function; dictionaries of kinds need none.
    __hash__ = str.__hash__


HELD = (ItemKind.DATA, ItemKind.LABELS)


# Compared by identity: two clients may draw the same field, and items are keys.
@dataclass(eq=False)
class Item:
    """Something drawn, or kept free, with its place once there is a layout.

    Attributes:
        kind: What it stands for.
        name: What is written in it.
        party: Whose it is.
        visit: How often the computation has come to the party by then: the
            tail of a U belongs to the second visit.
        beside: The item at whose side it stands, if it does.
        x: Centre, inches from the left.
        y: Centre, inches from below.
        w: Width, inches.
        h: Height, inches.
    """

    kind: ItemKind
    name: str = ""
    party: str = ""
    visit: int = 1
    beside: Item | None = None
    x: float = 0.0
    y: float = 0.0
    w: float = 0.3
    h: float = HIGH


@dataclass(eq=False)
class Wire:
    """What one item gives another.

    Attributes:
        source: The item that gives.
        target: The item that gets.
        name: The value that crosses or, for a penalty, `params` or `state`.
        crosses: Whether it goes from one party to another.
        returns: Whether a cotangent comes back.
        lanes: Places on its way that are kept free for it.
    """

    source: Item
    target: Item
    name: str
    crosses: bool = False
    returns: bool = False
    lanes: list[Item] = field(default_factory=list)


def tidy(name: str) -> str:
    """A name on one line."""
    return " ".join(name.split())


def sketch(topology: Topology) -> tuple[list[Item], list[Wire]]:
    """All items and wires of a topology; for every crossing exactly one wire crosses."""
    items = _items_of(topology)
    nodes = _parts(topology)
    crossing: list[Wire] = []
    forks: list[Item] = []
    # By ends, the names of what goes there: two reads of one node are one wire.
    inside: dict[tuple[Item, Item], list[str]] = {}

    for c in topology.crossings:
        reading = [n for n in nodes if n.party == c.receiver and c.name in n.reads]
        readers = [items[n.party, n.name] for n in reading]
        door = readers[0]
        if len(readers) > 1:
            first = min(x.visit for x in readers)
            door = Item(ItemKind.FORK, c.name, c.receiver, first, w=_FORK, h=_FORK)
            forks.append(door)
            inside.update({(door, x): [] for x in readers})
        source = items[c.sender, c.name]
        crossing.append(Wire(source, door, c.name, True, c.returns))

    for n in nodes:
        for i in n.reads:
            base, _, own = i.rpartition(".")
            # A name with a dot may be a value's own: only what is none is a part of one.
            if i in topology.node or i in topology.fields:
                base, own = i, ""
            # What lies at another party has come over a crossing, drawn above.
            if (n.party, base) in items:
                ends = items[n.party, base], items[n.party, n.name]
                inside.setdefault(ends, []).extend([own] if own else [])

    within = [Wire(s, t, ", ".join(own)) for (s, t), own in inside.items()]
    return [*items.values(), *forks], crossing + within


def _items_of(topology: Topology) -> dict[tuple[str, str], Item]:
    """By party and name, an item for every field that a party holds and every node."""
    visit = _visits(topology)
    nodes = _parts(topology)
    items: dict[tuple[str, str], Item] = {}
    for party in topology.parties:
        own = [n for n in nodes if n.party == party]
        for name in topology.holds.get(party, ()):
            readers = [n for n in own if name in n.reads]
            first = min((visit[n.name][party] for n in readers), default=1)
            # That anybody may read it is seen where it is held.
            label = f"{name} (public)" if name in topology.public else name
            items[party, name] = Item(_kind_of_field(readers), label, party, first)
        for n in own:
            kind = ItemKind(kind_of(n))
            h = HIGH if kind == ItemKind.SEGMENT else _LOW
            label = _label(topology, n)
            items[party, n.name] = Item(kind, label, party, visit[n.name][party], h=h)
    return items


def _label(topology: Topology, part: Node | Loss | Metric) -> str:
    """A part's name, with what goes along with its value, and whose weights it reads."""
    label = part.name
    if isinstance(part, Node):
        if carried := carried_over(topology, part.name):
            label += f" carrying {', '.join(carried)}"
        owners = dict.fromkeys(x.owner for x in topology.loans.get(part.name, ()))
        if owners:
            label += f" (weights of {', '.join(owners)})"
    return label


def _parts(topology: Topology) -> tuple[Node | Loss | Metric, ...]:
    """All that computes."""
    return (*topology.segments, *topology.losses, *topology.metrics)


def _kind_of_field(readers: list[Node | Loss | Metric]) -> ItemKind:
    """Labels are what a loss or a metric compares with, and no segment computes on."""
    kinds = {kind_of(n) for n in readers}
    compared = kinds & {NodeKind.LOSS, NodeKind.METRIC}
    if compared and NodeKind.SEGMENT not in kinds:
        return ItemKind.LABELS
    return ItemKind.DATA


def _visits(topology: Topology) -> dict[str, dict[str, int]]:
    """By node and party, how often the computation up to the node has come to the party."""
    found: dict[str, dict[str, int]] = {}
    for n in _parts(topology):
        mine = found[n.name] = {n.party: 1}
        for i in n.reads:
            # A field has no entry: it has always been where it is read.
            for party, count in found.get(i, {}).items():
                comes_back = party == n.party != topology.node[i].party
                mine[party] = max(mine.get(party, 0), count + comes_back)
    return found
