"""A topology as a picture: who holds what, who computes what, and what crosses.

Once as the text of a Mermaid flowchart, once as a Matplotlib figure; both draw the same sketch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsplit.topology.drawing.layout import Point, bend, layout, routes
from jsplit.topology.drawing.scene import Item, rows, sketch, tidy
from jsplit.topology.graph import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHAPES = {  # in Mermaid: cylinder, parallelogram, box, stadium, hexagon, circle
    "data": ('[("', '")]'),
    "labels": ('[/"', '"/]'),
    "segment": ('["', '"]'),
    "loss": ('(["', '"])'),
    "penalty": ('{{"', '"}}'),
    "fork": ('(("', '"))'),
}
_PANELS = (  # by row: the panel, its frame, its layers
    ("#E6F1FA", "#1F5F8B", "#5E9FCB"),
    ("#FCF1DC", "#805300", "#E0A437"),
    ("#E0F2EA", "#005F46", "#52B594"),
    ("#F6E8F1", "#7D3963", "#C686AC"),
)
_INK, _GREY, _RED, _ROSE = "#222222", "#808080", "#C0311A", "#FBE3DC"
_SIZE = 8.5  # of text, points; all else is in inches
_KEY = 1.0, 0.23  # an entry of the legend
_CYLINDER = (  # a body and a lid, as `Path` draws them in a box from -1 to 1
    (-1, 0.7),
    (-1, -0.7),
    (-1, -1.1),
    (1, -1.1),
    (1, -0.7),
    (1, 0.7),
    (1, 1.1),
    (-1, 1.1),
    (-1, 0.7),
    (-1, 0.3),
    (1, 0.3),
    (1, 0.7),
)


def mermaid(topology: Topology) -> str:
    """A Mermaid flowchart of who holds what, who computes what, and what crosses.

    One subgraph per party; cylinders are data, parallelograms labels, boxes segments, stadiums losses, hexagons
    penalties. A crossing is one solid arrow with the value's name and, if it returns, one dotted arrow back; a value
    that several nodes of its receiver read arrives once, at a circle.

    Args:
        topology: any.

    Returns:
        The text of a Mermaid block, the same whenever the topology is.

    References:
        Vepakomma et al., `Split learning for health <https://arxiv.org/abs/1812.00564>`_, 2018, Figures 2 and 4.
    """
    items, wires = sketch(topology)
    number = {x: f"n{i}" for i, x in enumerate(items)}
    lines, arrows, back = ["flowchart LR"], [], []
    for p, party in enumerate(topology.parties):
        own = [
            f"    {number[x]}{_quoted(x.name).join(_SHAPES[x.kind])}"
            for x in items
            if x.party == party
        ]
        lines += [f'  subgraph p{p}["{_quoted(party)}"]', *own, "  end"]
    for w in wires:
        source, target, name = number[w.source], number[w.target], _quoted(w.name)
        arrows.append(
            f'  {source} -->|"{name}"| {target}' if name else f"  {source} --> {target}"
        )
        if w.returns:
            back.append(str(len(arrows)))
            arrows.append(f'  {target} -.->|"cotangent of {name}"| {source}')
    style = [f"  linkStyle {','.join(back)} stroke:{_RED}"] if back else []
    return "\n".join([*lines, *arrows, *style]) + "\n"


def _quoted(name: str) -> str:
    """A name as it may stand between quotes in Mermaid: character codes for all but letters, digits and marks amid them."""
    text = tidy(name)
    around = zip(" " + text, text, text[1:] + " ", strict=False)
    plain = [
        c.isalnum() or c == " " or (c in "_-." and a.isalnum() and b.isalnum())
        for a, c, b in around
    ]
    return "".join(
        c if as_is else f"#{ord(c)};" for c, as_is in zip(text, plain, strict=True)
    )


def figure(topology: Topology, ax: Axes | None = None) -> Figure:
    """A figure of who holds what, who computes what, and what crosses, as in Vepakomma et al. 2018, Figures 2 and 4.

    A panel is a party; in it cylinders are data, sheets labels, stacked bars the layers of a segment, rounded shapes
    losses and hexagons penalties. Solid arrows are activations; dashed ones are the cotangents that come back over
    a cut, the dashed line between two rows. The layout follows from the topology, whatever that is.

    Args:
        topology: any.
        ax: where to draw, as large as it is when this is called; by default in a new figure of the size that fits.

    Returns:
        The figure. It is Matplotlib's own, not pyplot's, so it opens no window: `figure(topology).savefig("u.pdf")`.

    References:
        Vepakomma et al., `Split learning for health <https://arxiv.org/abs/1812.00564>`_, 2018.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    def length(text: str, weight: str = "normal") -> float:
        font = FontProperties(size=_SIZE, weight=weight)
        return (
            text_to_path.get_text_width_height_descent(tidy(text), font, False)[0] / 68
        )  # 72 points less some slack

    items, wires = sketch(topology)
    for i in items:
        ends = sum(
            1 + w.returns for w in wires if w.crosses and i in (w.source, w.target)
        )
        if i.kind != "fork":
            i.w = max(
                length(i.name) + 0.4, 0.9 if i.kind == "segment" else 0.65, 0.13 * ends
            )
    plan = layout(
        topology, items, wires, {p: length(p, "bold") for p in topology.parties}
    )
    keys = [k for k in _SHAPES if k != "fork" and any(i.kind == k for i in items)] + [
        "activation"
    ] * bool(wires)
    keys += ["cotangent"] * any(w.returns for w in wires) + ["cut"] * bool(plan.cuts)
    wide, high = (
        max(p.x + p.w / 2 for p in plan.panels),
        max(p.y + p.h / 2 for p in plan.panels),
    )
    lines = math.ceil(len(keys) / max(wide // _KEY[0], 2))
    columns = math.ceil(len(keys) / lines)
    size = max(wide, _KEY[0] * columns) + 0.2, high + _KEY[1] * lines + 0.3
    ax = ax or Figure(figsize=size).add_axes((0, 0, 1, 1))
    room = ax.get_window_extent().transformed(
        ax.figure.figure.dpi_scale_trans.inverted()
    )
    unit = min(1.0, room.width / size[0], room.height / size[1])
    x, y, w, h = (
        size[0] / 2 - 0.1,
        high + 0.1 - size[1] / 2,
        room.width / unit / 2,
        room.height / unit / 2,
    )
    ax.set(xlim=(x - w, x + w), ylim=(y - h, y + h), aspect="equal")
    ax.set_axis_off()

    colours = {p: _PANELS[r % len(_PANELS)] for p, r in rows(topology).items()}
    for p in plan.panels:
        face, frame, _ = colours[p.name]
        _rounded(ax, p.x, p.y, p.w, p.h, 0.12, fc=face, ec=frame, lw=unit, zorder=1)
        write(
            ax,
            p.x - p.w / 2 + 0.18,
            p.y,
            p.name,
            unit,
            rotation=90,
            weight="bold",
            color=frame,
        )
    for i in items:
        _symbol(ax, i, colours[i.party], plan.legs[i].across, unit)
    for w, back, points in routes(wires, plan.legs):
        ends = (
            (w.target.party, w.source.party)
            if back
            else (w.source.party, w.target.party)
        )
        _arrow(
            ax,
            points[::-1] if back else points,
            back,
            unit,
            (w.name, *ends) if w.crosses else (),
        )
    cut = {"ls": (0, (6, 4)), "color": _GREY, "lw": unit, "zorder": 2}
    for y in plan.cuts:
        ax.plot([0, wide], [y, y], **cut)
    for n, key in enumerate(keys):
        x, y = n % columns * _KEY[0], -(n // columns + 1) * _KEY[1]
        if key in _SHAPES:
            _symbol(
                ax,
                Item(key, x=x + 0.14, y=y, w=0.28, h=0.16),
                (_INK, _INK, _GREY),
                False,
                unit,
            )
        elif key == "cut":
            ax.plot([x, x + 0.28], [y, y], **cut)
        else:
            _arrow(ax, [(x, y, "h"), (x + 0.28, y, "h")], key == "cotangent", unit)
        write(ax, x + 0.34, y, key, 0.9 * unit, ha="left")
    return ax.figure.figure


def write(ax: Axes, x: float, y: float, text: str, unit: float, **how) -> None:
    how = {
        "ha": "center",
        "va": "center",
        "color": _INK,
        "zorder": 5,
        "fontsize": _SIZE * unit,
    } | how
    ax.text(x, y, tidy(text), parse_math=False, usetex=False, **how)


def _rounded(ax: Axes, x: float, y: float, w: float, h: float, r: float, **how) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = (x - w / 2 + r, y - h / 2 + r), w - 2 * r, h - 2 * r
    ax.add_patch(
        FancyBboxPatch(*box, boxstyle=f"round,pad={r},rounding_size={r}", **how)
    )


def _arrow(
    ax: Axes,
    points: Sequence[Point],
    back: bool,
    unit: float,
    crossing: tuple[str, ...] = (),
) -> None:
    """Draws an arrow. The shaft of one that crosses has a `gid`: what it is, the value, and from whom to whom."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    kind, ls, color = (
        ("cotangent", (0, (3.5, 2)), _RED) if back else ("activation", "-", _INK)
    )
    vertices = bend(points)
    (x, y), first, last = (
        vertices[-1],
        step(vertices[0], vertices[1]),
        step(vertices[-1], vertices[-2]),
    )
    path = Path(
        [vertices[0], first, *vertices[1:-1], last],
        [Path.MOVETO, Path.LINETO, *[Path.CURVE4] * (len(vertices) - 1)],
    )
    gid = " ".join([kind, *crossing]) if crossing else None
    ax.add_patch(
        PathPatch(
            path,
            fill=False,
            ls=ls,
            ec=color,
            lw=1.1 * unit,
            capstyle="butt",
            zorder=3,
            gid=gid,
        )
    )
    dx, dy = (last[0] - x) / 2, (last[1] - y) / 2
    ax.add_patch(
        Polygon(
            [(x, y), (last[0] + dy, last[1] - dx), (last[0] - dy, last[1] + dx)],
            fc=color,
            ec="none",
            zorder=3,
        )
    )


def step(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """From `a` towards `b` as far as an arrow's head is long; at either end, so that curves there and back are alike."""
    far = 0.075 / math.hypot(b[0] - a[0], b[1] - a[1])
    return a[0] + far * (b[0] - a[0]), a[1] + far * (b[1] - a[1])


def _symbol(
    ax: Axes, i: Item, colours: Sequence[str], across: bool, unit: float
) -> None:
    """Draws an item and its name."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    def outline(corners, codes, **how):
        ax.add_patch(
            PathPatch(
                Path([(x + a * w / 2, y + b * h / 2) for a, b in corners], codes), **how
            )
        )

    x, y, w, h = i.x, i.y, i.w, i.h
    how = {"ec": _INK, "fc": "white", "lw": 0.9 * unit, "zorder": 4}
    rosy = how | {"ec": _RED, "fc": _ROSE}
    if i.kind == "segment":
        thin, apart = 0.095 * h, 0.15 * h
        for far in (0.5 * thin, 0.5 * thin + apart):
            for sign in (-1, 1):
                bar = (
                    (x + sign * (w / 2 - far), y, thin, h)
                    if across
                    else (x, y + sign * (h / 2 - far), w, thin)
                )
                _rounded(
                    ax,
                    *bar,
                    thin / 2,
                    **how | {"ec": colours[1], "fc": colours[2], "lw": 0.5 * unit},
                )
        _rounded(
            ax,
            x,
            y,
            w - 4 * apart * across,
            h - 4 * apart * (not across),
            0.1 * h,
            **how | {"ec": colours[1]},
        )
    elif i.kind == "data":
        outline(_CYLINDER, [1, 2, 4, 4, 4, 2, 4, 4, 4, 4, 4, 4], **how)
        y -= 0.08 * h
    elif i.kind == "labels":
        x, y = x - 0.09 * h, y + 0.09 * h
        for s in (0.18 * h, 0.09 * h, 0.0):
            _rounded(ax, x + s, y - s, w - 0.18 * h, 0.8 * h, 0.04 * h, **how)
    elif i.kind == "penalty":
        s = 1 - 0.6 * h / w
        outline(
            [(-1, 0), (-s, -1), (s, -1), (1, 0), (s, 1), (-s, 1), (-1, 0)], None, **rosy
        )
    else:
        _rounded(
            ax, x, y, w, h, h / 2, **rosy if i.kind == "loss" else how | {"fc": _INK}
        )
    if i.kind != "fork":
        write(ax, x, y, i.name, unit)
