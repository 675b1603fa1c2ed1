"""Where the items of a sketch stand in a figure, and which way its wires take.

Parties stand in rows, those with the data first and above them those they send to, with a cut between
the rows. All is in inches, from below and from the left.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jsplit.topology.drawing.scene import HELD, HIGH, Item, Wire, rows
from jsplit.topology.graph import Topology

_PITCH = 0.82  # of a line of items
_PAD, _STRIP, _SPACE, _GAP = (
    0.18,
    0.22,
    0.26,
    0.6,
)  # around items, for a name, between items, between rows

Point = tuple[float, float, str]
"""Where a wire passes, and the axis, `v` or `h`, along which it does."""


@dataclass(eq=False)
class _Leg:
    """What a party does in one visit: lines of items, from below. In a U the client has two legs, the server one, across."""

    row: int
    own: list[Item] = field(default_factory=list)
    lines: list[list[Item]] = field(default_factory=list)
    across: bool = False  # in at one side, out at the other
    high: bool = False  # at the top of its panel
    x: float = 0.0
    left: float = 0.0  # how far it reaches from `x`
    right: float = 0.0


class _Plan(NamedTuple):
    """The panels, the leg of every item, and the heights of the cuts; places and sizes are in the items themselves."""

    panels: list[Item]
    legs: dict[Item, _Leg]
    cuts: list[float]


def layout(
    topology: Topology, items: list[Item], wires: list[Wire], names: Mapping[str, float]
) -> _Plan:
    """Places items of known widths: panels in rows, legs side by side in a panel, lines of items in a leg."""
    row = rows(topology)
    panels = {p: Item("panel", p, p) for p in row}
    strips = [
        [panels[p] for p in row if row[p] == r] for r in range(1 + max(row.values()))
    ]
    visited: dict[tuple[str, int], _Leg] = {}
    for i in sorted(items, key=lambda i: i.visit):
        visited.setdefault((i.party, i.visit), _Leg(row[i.party])).own.append(i)
    legs = {i: leg for leg in visited.values() for i in leg.own}
    mine = {
        panel: [leg for (p, _), leg in visited.items() if p == panel.name]
        for panel in panels.values()
    }
    for panel, own in mine.items():
        strip = strips[row[panel.name]]
        for leg in own:
            alone, mirrored = (
                len(own) == len(strip) == 1,
                len(own) == 1 and 2 * strip.index(panel) < len(strip) - 1,
            )
            _arrange(leg, legs, wires, alone, mirrored)
    for w in wires:
        for line in _passed(w, legs, strips):
            w.lanes.append(Item("lane"))
            line.append(w.lanes[-1])
    _place_across(
        mine, strips, [(legs[w.source], legs[w.target]) for w in wires if w.crosses]
    )

    y, cuts = 0.0, []
    for r, strip in enumerate(strips):
        own = [leg for leg in visited.values() if leg.row == r]
        tall = max([len(leg.lines) for leg in own], default=1)
        inner = (tall - 1) * _PITCH + HIGH
        high = max(
            [inner + 2 * _PAD, *(names[p.name] + 0.3 for p in strip if p in mine)]
        )
        for p in strip:
            p.y, p.h = y + high / 2, high
        for leg in own:
            for n, line in enumerate(
                leg.lines, start=tall - len(leg.lines) if leg.high else 0
            ):
                for i in line:
                    i.x, i.y = leg.x + i.x, y + (high - inner + HIGH) / 2 + n * _PITCH
        ends = [
            sorted((legs[w.source], legs[w.target]), key=lambda leg: leg.row)
            for w in wires
            if w.crosses
        ]
        reach = max(
            [abs(a.x - b.x) for a, b in ends if a.row <= r < b.row], default=0.0
        )
        gap = _GAP + min(
            max(0.0, reach - 1) * 0.2, 0.8
        )  # wires that go far aside need room to do so
        cuts.append(y + high + gap / 2)
        y += high + gap
    return _Plan(list(mine), legs, cuts[:-1])


def _arrange(
    leg: _Leg, legs: Mapping[Item, _Leg], wires: list[Wire], alone: bool, mirrored: bool
) -> None:
    """Lines by depth in the flow. Penalties stand beside what they read, fields beside a reader that has other inputs."""
    sent = {
        legs[w.target].row > leg.row for w in wires if w.crosses and w.source in leg.own
    }
    came = {
        legs[w.source].row > leg.row for w in wires if w.crosses and w.target in leg.own
    }
    falls = came == {True} or (not came and sent == {False})
    leg.across = (
        alone
        and sent == came
        and len(sent) == 1
        and not any(i.kind == "loss" for i in leg.own)
    )
    leg.high = falls or (not came and True in sent)
    inner = [
        (w.source, w.target) for w in wires if legs[w.source] is legs[w.target] is leg
    ]
    for i in leg.own:
        sources, readers = (
            [s for s, t in inner if t is i],
            [t for s, t in inner if s is i],
        )
        if i.kind == "penalty":
            i.beside = next((s for s in sources[::-1] if s.kind == "segment"), None)
        elif i.kind in HELD and any(
            w.target in readers[:1] and w.source.kind not in HELD for w in wires
        ):
            i.beside = readers[0]
    depth = {i: 0 for i in leg.own if not i.beside}
    for _ in leg.own:
        depth.update(
            {
                t: max(depth[t], depth[s] + 1)
                for s, t in inner
                if s in depth and t in depth
            }
        )
    satellites = sorted(
        ((i, i.beside) for i in leg.own if i.beside),
        key=lambda pair: pair[0].kind != "penalty",
    )
    if leg.across:
        leg.lines = [
            line
            for line in (
                sorted(depth, key=lambda i: depth[i]),
                [i for i, _ in satellites],
            )
            if line
        ]
    else:
        leg.lines = [
            [i for i in depth if depth[i] == n] for n in range(1 + max(depth.values()))
        ]
        for i, owner in satellites:
            line = next(line for line in leg.lines if owner in line)
            before = (sum(j.beside is owner for j in line) + mirrored) % 2
            line.insert(line.index(owner) + 1 - before, i)
    if falls:
        leg.lines.reverse()


def _passed(
    w: Wire, legs: Mapping[Item, _Leg], strips: list[list[Item]]
) -> list[list[Item]]:
    """The lines and rows that a wire passes on its way."""
    a, b = legs[w.source], legs[w.target]
    m, n = (
        next(n for n, line in enumerate(legs[i].lines) if i in line)
        for i in (w.source, w.target)
    )
    if a.row < b.row:
        return [*a.lines[m + 1 :], *strips[a.row + 1 : b.row], *b.lines[:n]]
    if a.row > b.row:
        return [*a.lines[:m][::-1], *strips[b.row + 1 : a.row][::-1], *b.lines[:n:-1]]
    if a is not b or a.across:
        return []
    return a.lines[m + 1 : n] if m < n else a.lines[n + 1 : m][::-1]


def _place_across(
    mine: Mapping[Item, list[_Leg]],
    strips: list[list[Item]],
    pairs: list[tuple[_Leg, _Leg]],
) -> None:
    """Across the figure: places items from the middle of their leg, then panels, all rows equally wide, and legs."""
    for leg in (leg for own in mine.values() for leg in own):
        for line in leg.lines:
            for n, i in enumerate(line):
                i.x = sum(j.w + _SPACE for j in line[:n]) + i.w / 2
            spine = [i for i in line if i.kind != "lane" and not i.beside] or line
            middle = (spine[0].x - spine[0].w / 2 + spine[-1].x + spine[-1].w / 2) / 2
            for i in line:
                i.x -= middle
                leg.left, leg.right = (
                    max(leg.left, i.w / 2 - i.x),
                    max(leg.right, i.w / 2 + i.x),
                )
    alone = {
        mine[p][0]: p
        for strip in strips
        for p in strip
        if p in mine and len(strip) == len(mine[p]) == 1
    }
    for leg in alone:  # so that they can all stand in one line
        leg.left = max(other.left for other in alone)
    for p, own in mine.items():
        p.w = (
            _STRIP
            + 2 * _PAD
            + max(
                sum(leg.left + leg.right + 2 * _SPACE for leg in own) - 2 * _SPACE, 0.6
            )
        )
    wide = max(sum(p.w + _SPACE for p in strip) for strip in strips)
    for strip in strips:
        x, spare = (
            0.0,
            (wide - sum(p.w + _SPACE for p in strip)) / sum(p in mine for p in strip),
        )
        for p in strip:
            at, own = x + _STRIP + _PAD, mine.get(p, [])
            for leg in own:
                leg.x = at + spare / len(own) / 2 + leg.left
                at += spare / len(own) + leg.left + leg.right + 2 * _SPACE
            p.w += spare if p in mine else 0.0
            p.x, x = x + p.w / 2, x + p.w + _SPACE
    for _ in range(
        50
    ):  # a leg with a row to itself comes to stand amid those it exchanges with
        for leg, p in alone.items():
            near = [b.x if a is leg else a.x for a, b in pairs if leg in (a, b)] or [
                leg.x
            ]
            leg.x = min(
                max(sum(near) / len(near), _STRIP + _PAD + leg.left),
                p.w - _PAD - leg.right,
            )


def routes(
    wires: list[Wire], legs: Mapping[Item, _Leg]
) -> list[tuple[Wire, bool, list[Point]]]:
    """Every wire and, if it returns, the same once more beside it, with True: the points from source to target."""
    slots: dict[tuple[Item, str], list] = defaultdict(list)
    for w in wires:
        chain = [w.source, *w.lanes, w.target]
        for here, there in (chain[:2], chain[:-3:-1]):
            side = _side_of(here, there, w.crosses, legs)
            outer = (
                1
                if side in ("top", "bottom") or (there.y < here.y) == (side == "right")
                else -1
            )
            for back in (False, True)[: 1 + w.returns]:
                order = (
                    (outer * there.x, outer * back) if w.crosses else (there.x, there.y)
                )
                slots[here, side].append((order, (w, back, here)))
    ends: dict[tuple[Wire, bool, Item], Point] = {}
    for (i, side), taken in slots.items():
        flat, sign = side in ("top", "bottom"), 1 if side in ("top", "right") else -1
        step = min(0.16, 0.85 * (i.w if flat else i.h) / len(taken))
        for n, (_, end) in enumerate(sorted(taken, key=lambda slot: slot[0])):
            shift = (n - (len(taken) - 1) / 2) * step
            ends[end] = (
                (i.x + shift, i.y + sign * i.h / 2, "v")
                if flat
                else (i.x + sign * i.w / 2, i.y + shift, "h")
            )
    found = []
    for w in wires:
        for back in (False, True)[: 1 + w.returns]:
            points = [ends[w, back, w.source]]
            for lane, there in zip(w.lanes, [*w.lanes, w.target][1:], strict=True):
                x, h = (
                    lane.x + 0.08 * (2 * back - 1) * w.returns,
                    math.copysign(lane.h / 2, there.y - lane.y),
                )
                points += [(x, lane.y - h, "v"), (x, lane.y + h, "v")]
            found.append((w, back, [*points, ends[w, back, w.target]]))
    return found


def _side_of(here: Item, there: Item, crosses: bool, legs: Mapping[Item, _Leg]) -> str:
    """On which side of an item a wire ends that leads to another, or from there."""
    line = [
        i.x for i in legs if i.party == here.party and i.y == here.y and i is not here
    ]
    side = "right" if there.x > here.x else "left"
    if there.y == here.y:
        return (
            "top"
            if any(min(here.x, there.x) < x < max(here.x, there.x) for x in line)
            else side
        )
    free = legs[here].across and not any(
        (x > here.x) == (side == "right") for x in line
    )
    if crosses and free and abs(there.x - here.x) > here.w / 2 + 0.2:
        return side
    return "top" if there.y > here.y else "bottom"


def bend(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Bezier curves, four vertices each, through all points, there along the axis given: swings, corners and arches."""
    vertices = [points[0][:2]]
    for (x0, y0, a), (x1, y1, b) in zip(points, points[1:], strict=False):
        k = 0.4 if a == b else 1.0
        dx, dy = k * (x1 - x0), k * (y1 - y0)
        vertices.append((x0, y0 + (dy or 0.2)) if a == "v" else (x0 + dx, y0))
        vertices.append((x1, y1 - (dy or -0.2)) if b == "v" else (x1 - dx, y1))
        vertices.append((x1, y1))
    return vertices
