"""Where everything stands across a figure: items in lines, legs in panels, panels in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsplit.topology.drawing.legs import Leg
from jsplit.topology.drawing.scene import Item, ItemKind

# All in inches.
PAD = 0.18  # around the items of a panel
_STRIP = 0.22  # for the name of a party, at the left of its panel
_SPACE = 0.26  # between items, and between panels
_NARROWEST = 0.6  # of a panel, without its margins

_ROUNDS = 50  # of moving legs towards their partners; they settle long before


def place_across(
    mine: Mapping[Item, list[Leg]],
    rows: Sequence[list[Item]],
    exchanging: Sequence[tuple[Leg, Leg]],
) -> None:
    """Set the x of items (from the middle of their leg), of panels, and of legs.

    All rows become equally wide.

    Args:
        mine: By panel, its legs from the left.
        rows: Panels and lanes of each row, from the left.
        exchanging: The legs at the ends of each crossing.
    """
    for legs in mine.values():
        for leg in legs:
            _place_lines(leg)

    alone = {
        mine[panel][0]: panel
        for row in rows
        for panel in row
        if panel in mine and len(row) == len(mine[panel]) == 1
    }
    # As far to the left as the widest of them, so that they can all stand in one line.
    for leg in alone:
        leg.left = max(other.left for other in alone)

    for panel, legs in mine.items():
        inner = sum(leg.left + leg.right + 2 * _SPACE for leg in legs) - 2 * _SPACE
        panel.w = _STRIP + 2 * PAD + max(inner, _NARROWEST)
    wide = max(_width(row) for row in rows)
    for row in rows:
        _spread(row, wide, mine)
    _move_together(alone, exchanging)


def _place_lines(leg: Leg) -> None:
    """Places the items of each line, and says how far the leg reaches to either side."""
    for line in leg.lines:
        for n, i in enumerate(line):
            i.x = sum(j.w + _SPACE for j in line[:n]) + i.w / 2
        # Lines are centred by what is in the flow: a penalty at one side must not push a
        # segment out of line with the next. A line may hold nothing but such items.
        spine = [i for i in line if i.kind != ItemKind.LANE and not i.beside] or line
        first, last = spine[0], spine[-1]
        middle = (first.x - first.w / 2 + last.x + last.w / 2) / 2
        for i in line:
            i.x -= middle
            leg.left = max(leg.left, i.w / 2 - i.x)
            leg.right = max(leg.right, i.w / 2 + i.x)


def _width(row: Sequence[Item]) -> float:
    return sum(p.w + _SPACE for p in row)


def _spread(row: Sequence[Item], wide: float, mine: Mapping[Item, list[Leg]]) -> None:
    """Widens the panels of a row to fill it, and places them with their legs."""
    spare = (wide - _width(row)) / sum(p in mine for p in row)
    x = 0.0
    for p in row:
        legs = mine.get(p, [])
        at = x + _STRIP + PAD
        for leg in legs:
            leg.x = at + spare / len(legs) / 2 + leg.left
            at += spare / len(legs) + leg.left + leg.right + 2 * _SPACE
        # A lane stays as narrow as it is: it is room for one wire.
        if p in mine:
            p.w += spare
        p.x = x + p.w / 2
        x = x + p.w + _SPACE


def _move_together(
    alone: Mapping[Leg, Item], exchanging: Sequence[tuple[Leg, Leg]]
) -> None:
    """A leg with a row to itself comes to stand amid those that it exchanges with."""
    # Each move changes where the others want to be, hence the rounds.
    for _ in range(_ROUNDS):
        for leg, panel in alone.items():
            near = [b.x if a is leg else a.x for a, b in exchanging if leg in (a, b)]
            wanted = sum(near) / len(near) if near else leg.x
            lowest = _STRIP + PAD + leg.left
            leg.x = min(max(wanted, lowest), panel.w - PAD - leg.right)
