"""A topology as a Matplotlib figure, as in Vepakomma et al. 2018, Figures 2 and 4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsplit.core.tables import blank_figure
from jsplit.topology.drawing.layout import Plan, layout, rows
from jsplit.topology.drawing.routes import Point, routes
from jsplit.topology.drawing.scene import Item, ItemKind, Wire, sketch, tidy
from jsplit.topology.drawing.symbols import (
    GREY,
    INK,
    SIZE,
    Box,
    Canvas,
    Colours,
    Style,
    draw_item,
)
from jsplit.topology.graph import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (  # by row, from below; then again from the first
    Colours("#E6F1FA", "#1F5F8B", "#5E9FCB"),
    Colours("#FCF1DC", "#805300", "#E0A437"),
    Colours("#E0F2EA", "#005F46", "#52B594"),
    Colours("#F6E8F1", "#7D3963", "#C686AC"),
)
_KEY_WIDTH, _KEY_HEIGHT = 1.0, 0.23  # of an entry of the legend, inches
_SYMBOLS = (
    ItemKind.DATA,
    ItemKind.LABELS,
    ItemKind.SEGMENT,
    ItemKind.LOSS,
    ItemKind.METRIC,
    ItemKind.PENALTY,
)
_CUT = (0, (6, 4))  # dashes


def figure(topology: Topology, ax: Axes | None = None) -> Figure:
    """A figure of who holds what, who computes what, and what crosses.

    A panel is a party; in it cylinders are data, sheets labels, stacked
    bars the layers of a segment, rounded shapes losses (white: metrics) and
    hexagons penalties. Solid arrows are activations; dashed ones are the
    cotangents that come back over a cut, the dashed line between two rows.
    The layout follows from the topology, whatever that is.

    Args:
        topology: Any topology.
        ax: Where to draw, as large as it is when this is called; by default
            in a new figure of the size that fits.

    Returns:
        The figure. It is Matplotlib's own, not pyplot's, so it opens no
        window: `figure(topology).savefig("u.pdf")`.

    Raises:
        ModuleNotFoundError: if Matplotlib, an extra, is not installed.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figures 2 and 4.

    Example:
        >>> import jsplit
        >>> part = jsplit.segment(lambda x: x)
        >>> drawn = jsplit.figure(jsplit.vanilla(part, part, loss=max))
        >>> [text.get_text() for text in drawn.axes[0].texts][:2]
        ['client', 'server']
    """
    items, wires = sketch(topology)
    # First, so that whoever lacks Matplotlib is told what to install.
    blank = blank_figure((1, 1)) if ax is None else None
    _set_widths(items, wires)
    names = {p: _length(p, "bold") for p in topology.parties}
    plan = layout(topology, items, wires, names)
    wide = max(p.x + p.w / 2 for p in plan.panels)
    high = max(p.y + p.h / 2 for p in plan.panels)

    keys = _keys(items, wires, plan)
    lines = math.ceil(len(keys) / max(wide // _KEY_WIDTH, 2))
    columns = math.ceil(len(keys) / lines)
    below = _KEY_HEIGHT * lines
    size = max(wide, _KEY_WIDTH * columns) + 0.2, high + below + 0.3

    if blank is not None:
        blank.set_size_inches(*size)
        ax = blank.add_axes((0, 0, 1, 1))
    assert ax is not None
    canvas = Canvas(ax, _fit(ax, size, high))
    _draw(canvas, topology, items, wires, plan)
    _draw_cuts(canvas, plan.cuts, (0, wide))
    _draw_legend(canvas, keys, columns)
    return ax.figure.figure  # the outermost, where `ax` is in a subfigure


def _length(text: str, weight: str = "normal") -> float:
    """How long a name is, inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=SIZE, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(tidy(text), font, False)
    return width / 68  # 72 points less some slack: backends differ in their fonts


def _set_widths(items: Sequence[Item], wires: Sequence[Wire]) -> None:
    """Room for the name of each item, and for the ends of the wires that cross."""
    for i in items:
        if i.kind == ItemKind.FORK:
            continue
        touching = [w for w in wires if w.crosses and i in (w.source, w.target)]
        ends = sum(1 + w.returns for w in touching)
        least = 0.9 if i.kind == ItemKind.SEGMENT else 0.65
        i.w = max(_length(i.name) + 0.4, least, 0.13 * ends)


def _keys(items: Sequence[Item], wires: Sequence[Wire], plan: Plan) -> list[str]:
    """What the legend explains: what there is in the figure, and nothing else."""
    there = {i.kind for i in items}
    keys: list[str] = [kind for kind in _SYMBOLS if kind in there]
    if wires:
        keys.append("activation")
    if any(w.returns for w in wires):
        keys.append("cotangent")
    if plan.cuts:
        keys.append("cut")
    return keys


def _fit(ax: Axes, size: tuple[float, float], high: float) -> float:
    """Make an inch of the layout the unit of the axes; returns its length on paper."""
    whole = ax.figure.figure
    room = ax.get_window_extent().transformed(whole.dpi_scale_trans.inverted())
    # Never larger than designed: text of another size than the page's looks wrong.
    unit = min(1.0, room.width / size[0], room.height / size[1])
    x, y = size[0] / 2 - 0.1, high + 0.1 - size[1] / 2
    w, h = room.width / unit / 2, room.height / unit / 2
    ax.set(xlim=(x - w, x + w), ylim=(y - h, y + h), aspect="equal")
    ax.set_axis_off()
    return unit


def _draw(
    canvas: Canvas,
    topology: Topology,
    items: Sequence[Item],
    wires: Sequence[Wire],
    plan: Plan,
) -> None:
    """Draw panels, what is in them, and all arrows."""
    row_of = rows(topology)
    colours = {p: _COLOURS[r % len(_COLOURS)] for p, r in row_of.items()}
    for p in plan.panels:
        panel, frame, _ = colours[p.name]
        style = Style(fill=panel, edge=frame, line=1.0, zorder=1)
        canvas.rounded(Box(p.x, p.y, p.w, p.h), 0.12, style)
        at = p.x - p.w / 2 + 0.18
        canvas.write(at, p.y, p.name, rotation=90, weight="bold", color=frame)
    for i in items:
        draw_item(canvas, i, colours[i.party], plan.legs[i].across)
    for w, back, points in routes(wires, plan.legs):
        ends = [w.source.party, w.target.party]
        if back:
            points, ends = points[::-1], ends[::-1]
        kind = "cotangent" if back else "activation"
        # An SVG file then says what each arrow is; so can a test.
        gid = " ".join([kind, w.name, *ends]) if w.crosses else None
        canvas.arrow(points, back, gid)


def _draw_cuts(canvas: Canvas, cuts: Sequence[float], ends: Sequence[float]) -> None:
    for y in cuts:
        # Above the panels' faces, where a cut may pass one, and below all symbols.
        canvas.ax.plot(ends, [y, y], ls=_CUT, color=GREY, lw=canvas.unit, zorder=2)


def _draw_legend(canvas: Canvas, keys: Sequence[str], columns: int) -> None:
    """Explain symbols and lines, in columns below the figure."""
    plain = Colours("white", INK, GREY)
    for n, key in enumerate(keys):
        x = n % columns * _KEY_WIDTH
        y = -(n // columns + 1) * _KEY_HEIGHT
        if key in _SYMBOLS:
            symbol = Item(ItemKind(key), x=x + 0.14, y=y, w=0.28, h=0.16)
            draw_item(canvas, symbol, plain, False)
        elif key == "cut":
            _draw_cuts(canvas, [y], (x, x + 0.28))
        else:
            points = [Point(x, y, "h"), Point(x + 0.28, y, "h")]
            canvas.arrow(points, key == "cotangent", None)
        canvas.write(x + 0.34, y, key, scale=0.9, ha="left")
