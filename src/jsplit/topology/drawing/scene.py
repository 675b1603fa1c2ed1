"""A topology as items and wires: what there is to draw, before anything has a place.

Every crossing is exactly one wire; a value that several nodes of its receiver read arrives once, at a fork.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from jsplit.topology.graph import Topology, type_of

HIGH = 0.48  # of an item, inches
HELD = ("data", "labels")


@dataclass(eq=False)
class Item:
    """Something drawn: data, labels, a segment, a loss, a penalty, the fork of a value with several readers at a party.

    `visit` counts how often the computation has come to the party by then: the tail of a U belongs to the second
    visit. In a figure also panels and lanes, which are kept free for a wire, are items.
    """

    kind: str
    name: str = ""
    party: str = ""
    visit: int = 1
    beside: Item | None = None  # the one at whose side it stands
    x: float = 0.0  # centre and size, inches
    y: float = 0.0
    w: float = 0.3
    h: float = HIGH


@dataclass(eq=False)
class Wire:
    """What one item gives another; `name` is the value that crosses or, for a penalty, `params` or `state`."""

    source: Item
    target: Item
    name: str
    crosses: bool = False
    returns: bool = False
    lanes: list[Item] = field(default_factory=list)


def tidy(name: str) -> str:
    return " ".join(name.split())


def sketch(topology: Topology) -> tuple[list[Item], list[Wire]]:
    """All items and wires of a topology. For every crossing exactly one wire crosses."""
    visit, nodes = _visits(topology), (*topology.segments, *topology.losses)
    items: dict[tuple[str, str], Item] = {}
    for party in topology.parties:
        own = [n for n in nodes if n.party == party]
        for name in topology.holds.get(party, ()):
            readers = [n for n in own if name in n.reads]
            kinds = {type_of(n) for n in readers}
            kind = "labels" if "loss" in kinds and "segment" not in kinds else "data"
            items[party, name] = Item(
                kind,
                name,
                party,
                min((visit[n.name][party] for n in readers), default=1),
            )
        for n in own:
            h = HIGH if type_of(n) == "segment" else 0.36
            items[party, n.name] = Item(
                type_of(n), n.name, party, visit[n.name][party], h=h
            )
    crossing, forks, inside = [], [], defaultdict(list)
    for c in topology.crossings:
        readers = [
            items[n.party, n.name]
            for n in nodes
            if n.party == c.receiver and c.name in n.reads
        ]
        door = readers[0]
        if len(readers) > 1:
            door = Item(
                "fork",
                c.name,
                c.receiver,
                min(x.visit for x in readers),
                w=0.08,
                h=0.08,
            )
            forks.append(door)
            inside.update({(door, x): [] for x in readers})
        crossing.append(Wire(items[c.sender, c.name], door, c.name, True, c.returns))
    for n in nodes:
        for i in n.reads:
            base, _, own = (
                (i, "", "")
                if i in topology.node or i in topology.fields
                else i.rpartition(".")
            )
            if (n.party, base) in items:
                inside[items[n.party, base], items[n.party, n.name]] += (
                    [own] if own else []
                )
    return [*items.values(), *forks], crossing + [
        Wire(s, t, ", ".join(own)) for (s, t), own in inside.items()
    ]


def _visits(topology: Topology) -> dict[str, dict[str, int]]:
    """By node and party, how often the computation that leads to the node has come to the party."""
    found: dict[str, dict[str, int]] = {}
    for n in (*topology.segments, *topology.losses):
        mine = found[n.name] = {n.party: 1}
        for i in n.reads:
            for party, count in found.get(i, {}).items():
                mine[party] = max(
                    mine.get(party, 0),
                    count + (party == n.party != topology.node[i].party),
                )
    return found


def rows(topology: Topology) -> dict[str, int]:
    """By party, its row from below: above all that send to it, except where the computation comes back."""
    sends: dict[str, list[str]] = {party: [] for party in topology.parties}

    def reaches(a: str, b: str) -> bool:
        return a == b or any(reaches(c, b) for c in sends[a])

    for c in topology.crossings:
        if not reaches(c.receiver, c.sender):
            sends[c.sender].append(c.receiver)
    row = dict.fromkeys(sends, 0)
    for _ in sends:
        for a in sends:
            row.update({b: max(row[b], row[a] + 1) for b in sends[a]})
    # a party that nothing reaches stands right below the first it sends to
    return row | {
        a: min(row[b] for b in to) - 1 for a, to in sends.items() if to and row[a] == 0
    }
