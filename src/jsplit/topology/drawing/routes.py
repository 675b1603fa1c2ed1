"""Which way wires take between placed items: where they end, and how they bend."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from jsplit.topology.drawing.legs import Leg
from jsplit.topology.drawing.scene import Item, Wire

_APART = 0.16  # at most, between two wires at one side of an item, inches
_BESIDE = 0.08  # from the middle of a lane to a wire, where another comes back

_Side = Literal["top", "bottom", "left", "right"]


class Point(NamedTuple):
    """Where a wire passes, and whether it does so vertically or horizontally."""

    x: float
    y: float
    axis: Literal["v", "h"]


class Route(NamedTuple):
    """A wire, or the cotangent that comes back beside it.

    Attributes:
        wire: The wire.
        back: Whether this is the cotangent.
        points: The points passed, from the source of the wire to its
            target.
    """

    wire: Wire
    back: bool
    points: list[Point]


class _End(NamedTuple):
    wire: Wire
    back: bool
    item: Item


def routes(wires: Sequence[Wire], legs: Mapping[Item, Leg]) -> list[Route]:
    """The route of every wire and, if it returns, the same once more beside it."""
    ends = _ends(wires, legs)
    found = []
    for w in wires:
        for back in _directions(w):
            points = [ends[_End(w, back, w.source)]]
            for lane, there in zip(w.lanes, [*w.lanes, w.target][1:], strict=True):
                aside = _BESIDE * (2 * back - 1) if w.returns else 0.0
                x = lane.x + aside
                # Straight through the whole lane, entered at the nearer edge.
                h = math.copysign(lane.h / 2, there.y - lane.y)
                points.append(Point(x, lane.y - h, "v"))
                points.append(Point(x, lane.y + h, "v"))
            points.append(ends[_End(w, back, w.target)])
            found.append(Route(w, back, points))
    return found


def _directions(w: Wire) -> tuple[bool, ...]:
    return (False, True) if w.returns else (False,)


def _ends(wires: Iterable[Wire], legs: Mapping[Item, Leg]) -> dict[_End, Point]:
    """Where each wire ends: those at one side of an item are spread over it."""
    slots: dict[tuple[Item, _Side], list] = defaultdict(list)
    for w in wires:
        way = [w.source, *w.lanes, w.target]
        for here, there in ((way[0], way[1]), (way[-1], way[-2])):
            side = _side_of(here, there, w.crosses, legs)
            for back in _directions(w):
                order = _order(here, there, side, back, w.crosses)
                slots[here, side].append((order, _End(w, back, here)))

    ends: dict[_End, Point] = {}
    for (i, side), taken in slots.items():
        # By the order alone: ends themselves have none.
        taken.sort(key=lambda slot: slot[0])
        flat = side in ("top", "bottom")
        step = min(_APART, 0.85 * (i.w if flat else i.h) / len(taken))
        sign = 1 if side in ("top", "right") else -1
        for n, (_, end) in enumerate(taken):
            shift = (n - (len(taken) - 1) / 2) * step
            if flat:
                ends[end] = Point(i.x + shift, i.y + sign * i.h / 2, "v")
            else:
                ends[end] = Point(i.x + sign * i.w / 2, i.y + shift, "h")
    return ends


def _order(
    here: Item, there: Item, side: _Side, back: bool, crosses: bool
) -> tuple[float, float]:
    """Where an end stands among those at the same side of `here`, so that few wires meet."""
    if not crosses:
        return there.x, there.y
    # At a side the wire to the farthest must be the outermost: on the right that is the
    # lowest if it leads down, on the left the highest.
    outermost_last = side in ("top", "bottom") or (there.y < here.y) == (
        side == "right"
    )
    sign = 1 if outermost_last else -1
    return sign * there.x, sign * back


def _side_of(here: Item, there: Item, crosses: bool, legs: Mapping[Item, Leg]) -> _Side:
    """On which side of an item a wire ends that leads to another, or from there."""
    side = "right" if there.x > here.x else "left"
    line = [
        i.x for i in legs if i.party == here.party and i.y == here.y and i is not here
    ]
    if there.y == here.y:
        low, high = sorted((here.x, there.x))
        # Something stands between the two, so the wire goes over it in an arch.
        return "top" if any(low < x < high for x in line) else side
    free = legs[here].across and not any(
        (x > here.x) == (side == "right") for x in line
    )
    if crosses and free and abs(there.x - here.x) > here.w / 2 + 0.2:
        return side
    return "top" if there.y > here.y else "bottom"


def bend(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Bezier curves through all points, each passed along its axis.

    Returns:
        Vertices: the first point, then three for each curve.
    """
    vertices = [(points[0].x, points[0].y)]
    for (x0, y0, a), (x1, y1, b) in zip(points, points[1:], strict=False):
        # Between two points of one axis the curve swings; else it turns a corner.
        k = 0.4 if a == b else 1.0
        dx, dy = k * (x1 - x0), k * (y1 - y0)
        # At equal height a vertical wire has no `dy` to start with: it makes an arch.
        vertices.append((x0, y0 + (dy or 0.2)) if a == "v" else (x0 + dx, y0))
        vertices.append((x1, y1 - (dy or -0.2)) if b == "v" else (x1 - dx, y1))
        vertices.append((x1, y1))
    return vertices
