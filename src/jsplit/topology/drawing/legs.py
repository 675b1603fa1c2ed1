"""What a party does in one visit of the computation: items in lines, from below.

In a U the client has two legs; the server has one, at the turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jsplit.topology.drawing.scene import HELD, Item, ItemKind, Wire


@dataclass(eq=False)
class Leg:
    """The items of one visit to a party.

    Attributes:
        row: The row of the party, from below.
        own: Its items, in the order in which they were found.
        lines: The same in lines, from below, with the lanes of wires that
            pass.
        across: Whether it is one line, which wires enter and leave at the
            sides.
        high: Whether it stands at the top of its panel.
        x: Where its middle is, inches from the left.
        left: How far it reaches to the left of `x`.
        right: How far it reaches to the right of `x`.
    """

    row: int
    own: list[Item] = field(default_factory=list)
    lines: list[list[Item]] = field(default_factory=list)
    across: bool = False
    high: bool = False
    x: float = 0.0
    left: float = 0.0
    right: float = 0.0


def arrange(
    leg: Leg,
    legs: Mapping[Item, Leg],
    wires: Sequence[Wire],
    alone: bool,
    mirrored: bool,
) -> None:
    """Put a leg's items into lines by their depth in the flow.

    Penalties stand beside what they read, fields beside a reader with other
    inputs.

    Args:
        leg: What to arrange.
        legs: The leg of every item.
        wires: All wires.
        alone: Whether the leg has a row of the figure to itself.
        mirrored: Whether what stands beside something does so on its left.
    """
    up = {
        legs[w.target].row > leg.row for w in wires if w.crosses and w.source in leg.own
    }
    from_above = {
        legs[w.source].row > leg.row for w in wires if w.crosses and w.target in leg.own
    }
    # The computation falls through a leg that is fed from above only: the tail of a U.
    falls = from_above == {True} or (not from_above and up == {False})
    leg.high = falls or (not from_above and True in up)

    # What comes from one side and goes back to it turns round in the leg. A loss ends
    # the computation, so there is nothing to turn.
    turns = up == from_above and len(up) == 1
    ends = any(i.kind in (ItemKind.LOSS, ItemKind.METRIC) for i in leg.own)
    leg.across = alone and turns and not ends

    inner = [
        (w.source, w.target) for w in wires if legs[w.source] is legs[w.target] is leg
    ]
    for i in leg.own:
        i.beside = _owner_of(i, inner, wires)
    depth = _depths([i for i in leg.own if not i.beside], inner)
    satellites = [i for i in leg.own if i.beside]
    # Penalties first: a field keeps to the side that they leave free.
    satellites.sort(key=lambda i: i.kind != ItemKind.PENALTY)

    if leg.across:
        spine = sorted(depth, key=lambda i: depth[i])
        leg.lines = [line for line in (spine, satellites) if line]
    else:
        levels = range(1 + max(depth.values()))
        leg.lines = [[i for i in depth if depth[i] == n] for n in levels]
        _insert_beside(leg.lines, satellites, mirrored)
    if falls:
        leg.lines.reverse()


def _owner_of(
    item: Item, inner: Iterable[tuple[Item, Item]], wires: Iterable[Wire]
) -> Item | None:
    """The item at whose side another one stands, if it stands in no line of its own."""
    if item.kind == ItemKind.PENALTY:
        sources = [s for s, t in inner if t is item]
        segments = [s for s in sources if s.kind == ItemKind.SEGMENT]
        return segments[-1] if segments else None
    if item.kind in HELD:
        readers = [t for s, t in inner if s is item]
        # A field below its reader looks like the start of the flow. Where a value comes
        # in as well, that is the flow, and the field (a label, say) joins from the side.
        for w in wires:
            if w.target in readers[:1] and w.source.kind not in HELD:
                return readers[0]
    return None


def _depths(
    items: Iterable[Item], inner: Sequence[tuple[Item, Item]]
) -> dict[Item, int]:
    """By item, how many lines it stands above the start of the flow in its leg."""
    depth = dict.fromkeys(items, 0)
    # As many rounds as items: no way has more steps, in whatever order the wires come.
    for _ in [*depth]:
        for s, t in inner:
            if s in depth and t in depth:
                depth[t] = max(depth[t], depth[s] + 1)
    return depth


def _insert_beside(
    lines: list[list[Item]], satellites: Iterable[Item], mirrored: bool
) -> None:
    """Put items into the line of the one that they stand beside, right and left in turn."""
    for i in satellites:
        line = next(line for line in lines if i.beside in line)
        others = sum(j.beside is i.beside for j in line)
        on_left = (others + mirrored) % 2 == 1
        at = line.index(i.beside)  # type: ignore[arg-type]
        line.insert(at if on_left else at + 1, i)
