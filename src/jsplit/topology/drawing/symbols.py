"""How items, arrows and names look in a Matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from jsplit.topology.drawing.routes import Point, bend
from jsplit.topology.drawing.scene import Item, ItemKind, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY = "#222222", "#808080"
_RED, _ROSE = "#C0311A", "#FBE3DC"
SIZE = 8.5  # of text, points; all else is in inches
_HEAD = 0.075  # length of an arrow's head

# fmt: off
_CYLINDER = (  # a body and a lid, as `Path` draws them in a box from -1 to 1
    (-1, 0.7), (-1, -0.7), (-1, -1.1), (1, -1.1), (1, -0.7), (1, 0.7),
    (1, 1.1), (-1, 1.1), (-1, 0.7), (-1, 0.3), (1, 0.3), (1, 0.7),
)
_CYLINDER_CODES = (1, 2, 4, 4, 4, 2, 4, 4, 4, 4, 4, 4)  # move, line, or cubic Bezier
# fmt: on


class Colours(NamedTuple):
    """Of a party: its panel, its frame and name, the layers of its segments."""

    panel: str
    frame: str
    layers: str


class Box(NamedTuple):
    """A centre and a size."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Style:
    """How a shape is filled and framed; `zorder` says what it covers."""

    fill: str = "white"
    edge: str = INK
    line: float = 0.9
    zorder: float = 4


@dataclass(frozen=True)
class Canvas:
    """Where to draw, and what an inch of the layout measures there.

    Attributes:
        ax: Axes whose units are inches of the layout.
        unit: Inches on paper for one of the layout: text and lines shrink
            with it.
    """

    ax: Axes
    unit: float

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        scale: float = 1.0,
        color: str = INK,
        ha: str = "center",
        weight: str = "normal",
        rotation: float = 0.0,
    ) -> None:
        """Write a name, as it is: dollars are no mathematics."""
        self.ax.text(
            x,
            y,
            tidy(text),
            ha=ha,
            va="center",
            color=color,
            weight=weight,
            rotation=rotation,
            fontsize=SIZE * self.unit * scale,
            zorder=5,
            parse_math=False,
            usetex=False,
        )

    def rounded(self, box: Box, radius: float, style: Style) -> None:
        """Draw a box with rounded corners."""
        from matplotlib.patches import FancyBboxPatch

        # Matplotlib adds the padding outside the box that it is given.
        inner = box.w - 2 * radius, box.h - 2 * radius
        corner = box.x - box.w / 2 + radius, box.y - box.h / 2 + radius
        patch = FancyBboxPatch(
            corner,
            *inner,
            boxstyle=f"round,pad={radius},rounding_size={radius}",
            fc=style.fill,
            ec=style.edge,
            lw=style.line * self.unit,
            zorder=style.zorder,
        )
        self.ax.add_patch(patch)

    def outline(
        self,
        box: Box,
        corners: Sequence[tuple[float, float]],
        codes: Sequence[int] | None,
        style: Style,
    ) -> None:
        """Draw a shape given by its corners in a box from -1 to 1."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        vertices = [(box.x + a * box.w / 2, box.y + b * box.h / 2) for a, b in corners]
        patch = PathPatch(
            Path(vertices, codes),
            fc=style.fill,
            ec=style.edge,
            lw=style.line * self.unit,
            zorder=style.zorder,
        )
        self.ax.add_patch(patch)

    def arrow(self, points: Sequence[Point], back: bool, gid: str | None) -> None:
        """Draw an arrow, dashed and red if it is a cotangent's.

        Args:
            points: Where it passes, from its tail to its head.
            back: Whether it is a cotangent's.
            gid: The identifier of its shaft in an SVG file.
        """
        from matplotlib.patches import PathPatch, Polygon
        from matplotlib.path import Path

        vertices = bend(points)
        # Shortened by a head at both ends, so that curves there and back are alike.
        first = _towards(vertices[0], vertices[1])
        last = _towards(vertices[-1], vertices[-2])
        path = Path(
            [vertices[0], first, *vertices[1:-1], last],
            [Path.MOVETO, Path.LINETO, *[Path.CURVE4] * (len(vertices) - 1)],
        )
        color = _RED if back else INK
        shaft = PathPatch(
            path,
            fill=False,
            ls=(0, (3.5, 2)) if back else "-",
            ec=color,
            lw=1.1 * self.unit,
            capstyle="butt",
            zorder=3,
            gid=gid,
        )
        self.ax.add_patch(shaft)

        # A polygon and no arrow style of Matplotlib's: it scales with the layout.
        x, y = vertices[-1]
        dx, dy = (last[0] - x) / 2, (last[1] - y) / 2
        corners = [(x, y), (last[0] + dy, last[1] - dx), (last[0] - dy, last[1] + dx)]
        self.ax.add_patch(Polygon(corners, fc=color, ec="none", zorder=3))


def _towards(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """From `a` towards `b` as far as an arrow's head is long."""
    far = _HEAD / math.hypot(b[0] - a[0], b[1] - a[1])
    return a[0] + far * (b[0] - a[0]), a[1] + far * (b[1] - a[1])


def draw_item(canvas: Canvas, item: Item, colours: Colours, across: bool) -> None:
    """Draw an item and its name.

    Args:
        canvas: Where to draw.
        item: What to draw, with its place.
        colours: Those of its party.
        across: Whether values enter at its side: the layers of a segment
            then stand upright.
    """
    box = Box(item.x, item.y, item.w, item.h)
    style = Style()
    rosy = Style(fill=_ROSE, edge=_RED)
    x, y = box.x, box.y
    if item.kind == ItemKind.SEGMENT:
        _draw_segment(canvas, box, colours, across)
    elif item.kind == ItemKind.DATA:
        canvas.outline(box, _CYLINDER, _CYLINDER_CODES, style)
        y -= 0.08 * box.h  # the lid takes up the top, so the name goes lower
    elif item.kind == ItemKind.LABELS:
        x, y = box.x - 0.09 * box.h, box.y + 0.09 * box.h
        for s in (0.18 * box.h, 0.09 * box.h, 0.0):  # the topmost sheet last
            sheet = Box(x + s, y - s, box.w - 0.18 * box.h, 0.8 * box.h)
            canvas.rounded(sheet, 0.04 * box.h, style)
    elif item.kind == ItemKind.PENALTY:
        s = 1 - 0.6 * box.h / box.w  # so that the ends are alike at any width
        corners = [(-1, 0), (-s, -1), (s, -1), (1, 0), (s, 1), (-s, 1), (-1, 0)]
        canvas.outline(box, corners, None, rosy)
    elif item.kind == ItemKind.LOSS:
        canvas.rounded(box, box.h / 2, rosy)
    elif item.kind == ItemKind.METRIC:
        canvas.rounded(box, box.h / 2, style)  # no red: nothing learns from it
    else:
        canvas.rounded(box, box.h / 2, replace(style, fill=INK))
    # A fork bears the name of the value, which the wire has brought along already.
    if item.kind != ItemKind.FORK:
        canvas.write(x, y, item.name)


def _draw_segment(canvas: Canvas, box: Box, colours: Colours, across: bool) -> None:
    """Layers as thin bars at both ends of a box, in the direction of the flow."""
    x, y, w, h = box
    thin, apart = 0.095 * h, 0.15 * h
    bars = Style(fill=colours.layers, edge=colours.frame, line=0.5)
    for far in (0.5 * thin, 0.5 * thin + apart):
        for sign in (-1, 1):
            if across:
                bar = Box(x + sign * (w / 2 - far), y, thin, h)
            else:
                bar = Box(x, y + sign * (h / 2 - far), w, thin)
            canvas.rounded(bar, thin / 2, bars)
    room = 4 * apart
    inner = Box(x, y, w - room * across, h - room * (not across))
    canvas.rounded(inner, 0.1 * h, Style(edge=colours.frame))
