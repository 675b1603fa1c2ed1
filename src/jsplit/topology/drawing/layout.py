"""Where the items of a sketch stand in a figure, and between which rows the cuts are.

Parties stand in rows, those with the data first and above them those they
send to, with a cut between the rows. All is in inches, from below and from
the left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jsplit.topology.drawing.across import PAD, place_across
from jsplit.topology.drawing.legs import Leg, arrange
from jsplit.topology.drawing.scene import HIGH, Item, ItemKind, Wire
from jsplit.topology.graph import Topology

_PITCH = 0.82  # from one line of items to the next
_GAP = 0.6  # between rows
_FAR_GAP = 0.8  # at most, on top of it, where wires go far aside


class Plan(NamedTuple):
    """A layout; places and sizes are in the items themselves.

    Attributes:
        panels: One for each party.
        legs: The leg of every item.
        cuts: Heights of the cuts, from below.
    """

    panels: list[Item]
    legs: dict[Item, Leg]
    cuts: list[float]


def rows(topology: Topology) -> dict[str, int]:
    """By party, its row from below.

    A party stands above all that send to it, except where the computation
    comes back.
    """
    sends: dict[str, list[str]] = {party: [] for party in topology.parties}

    def reaches(a: str, b: str) -> bool:
        return a == b or any(reaches(c, b) for c in sends[a])

    for c in topology.crossings:
        # What comes back would close a circle, in which nothing is above anything.
        if not reaches(c.receiver, c.sender):
            sends[c.sender].append(c.receiver)

    row = dict.fromkeys(sends, 0)
    for _ in sends:
        for a, to in sends.items():
            for b in to:
                row[b] = max(row[b], row[a] + 1)
    # A party that nothing reaches stands right below the first that it sends to: near
    # it, and not at the bottom of the figure.
    for a, to in sends.items():
        if to and row[a] == 0:
            row[a] = min(row[b] for b in to) - 1
    return row


def layout(
    topology: Topology,
    items: Iterable[Item],
    wires: Sequence[Wire],
    names: Mapping[str, float],
) -> Plan:
    """Places items of known widths: panels in rows, legs in panels, lines in legs.

    Args:
        topology: What is drawn.
        items: Its items; their places are set.
        wires: Its wires; their lanes are set.
        names: By party, the length of its name, inches.
    """
    row_of = rows(topology)
    panels = {p: Item(ItemKind.PANEL, p, p) for p in row_of}
    count = 1 + max(row_of.values())
    strips = [[panels[p] for p in row_of if row_of[p] == r] for r in range(count)]

    visited: dict[tuple[str, int], Leg] = {}
    for i in sorted(items, key=lambda i: i.visit):
        leg = visited.setdefault((i.party, i.visit), Leg(row_of[i.party]))
        leg.own.append(i)
    legs = {i: leg for leg in visited.values() for i in leg.own}
    mine: dict[Item, list[Leg]] = {panel: [] for panel in panels.values()}
    for (party, _), leg in visited.items():
        mine[panels[party]].append(leg)

    for panel, own in mine.items():
        strip = strips[row_of[panel.name]]
        single = len(own) == 1
        # In the left half of a row labels and penalties go to the outside, the left:
        # the wires to the other rows are on the right.
        mirrored = single and 2 * strip.index(panel) < len(strip) - 1
        for leg in own:
            arrange(leg, legs, wires, single and len(strip) == 1, mirrored)

    # After all lines are there, and before anything has a place: a lane takes up room.
    for w in wires:
        for line in _passed(w, legs, strips):
            lane = Item(ItemKind.LANE)
            w.lanes.append(lane)
            line.append(lane)
    ends = [(legs[w.source], legs[w.target]) for w in wires if w.crosses]
    place_across(mine, strips, ends)
    cuts = _place_up(strips, [*visited.values()], ends, names)
    return Plan([*mine], legs, cuts)


def _passed(
    w: Wire, legs: Mapping[Item, Leg], strips: list[list[Item]]
) -> list[list[Item]]:
    """The lines and rows that a wire passes on its way, in that order."""
    a, b = legs[w.source], legs[w.target]
    m = next(n for n, line in enumerate(a.lines) if w.source in line)
    n = next(n for n, line in enumerate(b.lines) if w.target in line)
    if a.row < b.row:
        return [*a.lines[m + 1 :], *strips[a.row + 1 : b.row], *b.lines[:n]]
    if a.row > b.row:
        return [*a.lines[:m][::-1], *strips[b.row + 1 : a.row][::-1], *b.lines[:n:-1]]
    # In one row, a wire to another leg goes through the space between the panels.
    if a is not b or a.across:
        return []
    return a.lines[m + 1 : n] if m < n else a.lines[n + 1 : m][::-1]


def _place_up(
    strips: Sequence[Sequence[Item]],
    legs: Sequence[Leg],
    exchanging: Iterable[tuple[Leg, Leg]],
    names: Mapping[str, float],
) -> list[float]:
    """Sets the y of panels, lanes and items, row by row; returns the heights of the cuts."""
    pairs = [sorted(ends, key=lambda leg: leg.row) for ends in exchanging]
    y = 0.0
    cuts = []
    for r, strip in enumerate(strips):
        own = [leg for leg in legs if leg.row == r]
        lines = max([len(leg.lines) for leg in own], default=1)
        inner = (lines - 1) * _PITCH + HIGH
        # A party's name stands upright at the side of its panel.
        upright = [names[p.name] + 0.3 for p in strip if p.kind == ItemKind.PANEL]
        high = max([inner + 2 * PAD, *upright])

        for p in strip:
            p.y, p.h = y + high / 2, high
        for leg in own:
            lowest = lines - len(leg.lines) if leg.high else 0
            for n, line in enumerate(leg.lines, start=lowest):
                for i in line:
                    i.x = leg.x + i.x
                    i.y = y + (high - inner + HIGH) / 2 + n * _PITCH

        # Wires that go far aside need room to do so.
        reach = [abs(low.x - top.x) for low, top in pairs if low.row <= r < top.row]
        far = max(reach, default=0.0)
        gap = _GAP + min(max(0.0, far - 1) * 0.2, _FAR_GAP)
        cuts.append(y + high + gap / 2)
        y += high + gap
    return cuts[:-1]  # above the last row there is nothing to cut
