"""Numbers shown: as text in columns, as what JSON can hold, as bars, as points on two axes.

Nothing here knows what the numbers are; the rooms that have some say what a
column means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A figure, axes or an axis of matplotlib, whose own types leave so much open
# that a strict checker refuses each call.
Drawing = Any

# What JSON can hold.
_Json = dict[str, "_Json"] | list["_Json"] | str | int | float | None

# `(x, y, name, front, fits)`, see `scatter`.
_Point = tuple[float, float, str, bool, bool]

# Told apart by people who do not see red or green (Okabe and Ito).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_INK, _GREY, _PALE = "#222222", "#9A9A9A", "#E8E8E8"


def plain(x: object) -> _Json:
    """A record, and all in it, as JSON can hold it."""
    # Before tuples, which named tuples are: their names are worth keeping.
    if hasattr(x, "_asdict") and isinstance(x, tuple):
        return plain(cast("NamedTuple", x)._asdict())
    if isinstance(x, Mapping):
        mapping = cast("Mapping[str, object]", x)
        return {key: plain(value) for key, value in mapping.items()}
    if isinstance(x, tuple | list):
        return [plain(value) for value in cast("Sequence[object]", x)]

    if isinstance(x, int | float | str) or x is None:
        return x
    # Not any number of NumPy's: JSON has no complex ones.
    if isinstance(x, np.integer | np.floating):
        return x.item()
    return str(x)


def si(x: float) -> str:
    """A number of four digits with a decimal prefix: `1.234 M`."""
    for prefix in ("", "k", "M", "G", "T"):
        # Not 1000: 999.96 would be written `1000`, and not `1 k`.
        if abs(x) < 999.95:
            return f"{x:.4g} {prefix}".strip()
        x /= 1000
    return f"{x:.4g} P"


def aligned(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Collection[int] = (0,),
) -> list[str]:
    """Write a table in columns of even width.

    Args:
        columns: the heads.
        rows: a cell for each column.
        words: the columns that hold words, by their place.

    Returns:
        Its lines: words to the left, and the other columns, which are
        numbers, to the right.
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines: list[str] = []
    for row in (columns, *rows):
        cells = [
            c.ljust(w) if place in words else c.rjust(w)
            for place, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def blank_figure(size: tuple[float, float], *, constrained: bool = False) -> Figure:
    """Make an empty figure: Matplotlib's own, not pyplot's, so that it opens no window.

    Args:
        size: width and height, inches.
        constrained: whether Matplotlib makes room for titles and labels.

    Returns:
        The figure. A notebook shows it where it is the last line of a cell, as
        Matplotlib's own is only after pyplot was imported.

    Raises:
        ModuleNotFoundError: if Matplotlib, an extra, is not installed.
    """
    # Here and not above: importing jsplit must not import matplotlib.
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures need the package matplotlib, of the extra `jsplit[draw]`.",
            name=error.name,
        ) from error
    drawn: Drawing = Figure(figsize=size, layout="constrained" if constrained else None)
    # No class of its own: that could not be pickled, since Matplotlib is imported late.
    drawn._repr_png_ = partial(_as_png, drawn)
    return drawn


def _as_png(drawn: Drawing) -> bytes:
    """What a notebook shows of a figure."""
    file = BytesIO()
    drawn.savefig(file, format="png")
    return file.getvalue()


def bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw one panel for each quantity, with a horizontal bar for each row in it.

    Args:
        panels: by title (with the unit), by row, by part: a number. The
            parts of a row are stacked.

    Returns:
        The figure.
    """
    count = max(len(rows) for rows in panels.values())
    size = (3.6 * len(panels) + 1, 0.42 * count + 1.5)
    drawn = blank_figure(size, constrained=True)
    axes: Drawing = drawn.subplots(1, len(panels), sharey=True, squeeze=False)
    for ax, (title, rows) in zip(axes[0], panels.items(), strict=True):
        _stack(ax, rows)
        _dress_bars(ax, title)
    # Rows from top to bottom, as they are listed. Once, since the panels
    # share the axis.
    axes[0][0].invert_yaxis()
    return drawn


def _stack(ax: Drawing, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Draw the bars of one panel, part by part."""
    # A part that is zero everywhere would take a colour and a line of the
    # legend.
    parts: dict[str, None] = {}
    for row in rows.values():
        parts |= {part: None for part, x in row.items() if x}

    left = dict.fromkeys(rows, 0.0)
    for part, colour in zip(parts, _COLOURS, strict=False):
        values = {name: row.get(part, 0.0) for name, row in rows.items()}
        ax.barh(
            list(values),
            list(values.values()),
            left=list(left.values()),
            height=0.6,
            color=colour,
            label=part,
        )
        left = {name: left[name] + x for name, x in values.items()}


def _dress_bars(ax: Drawing, title: str) -> None:
    from matplotlib.ticker import EngFormatter

    ax.set_title(title, fontsize=10, color=_INK)
    ax.xaxis.set_major_formatter(EngFormatter())
    ax.tick_params(length=0)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x", color=_PALE)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    # A panel in which all is zero has no parts to explain.
    if not ax.get_legend_handles_labels()[0]:
        return
    # Below the axis: over the bars it would hide the longest.
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
        fontsize=8,
        frameon=False,
    )


def scatter(points: Sequence[_Point], xlabel: str, ylabel: str) -> Figure:
    """Draw points on two logarithmic axes.

    Args:
        points: `(x, y, name, front, fits)`. Those on the front are joined,
            numbered and named; those that do not fit are hollow.
        xlabel: what x is.
        ylabel: what y is.

    Returns:
        The figure.
    """
    drawn: Drawing = blank_figure((9.5, 5.2), constrained=True)
    ax = drawn.subplots()
    _draw_points(ax, points)

    # Numbers at the points and names in the legend: names of submodules are
    # long, and points of a front lie close together.
    front = sorted(p for p in points if p[3])
    for i, (x, y, name, *_) in enumerate(front, start=1):
        at = {"xytext": (6, 5), "textcoords": "offset points"}
        ax.annotate(str(i), (x, y), fontsize=9, color=_INK, **at)
        ax.plot([], [], ls="none", label=f"{i}  {name}")

    _dress_points(ax, xlabel, ylabel)
    where = "outside right upper"
    drawn.legend(loc=where, frameon=False, fontsize=8, handlelength=1.2)
    return drawn


def _draw_points(ax: Drawing, points: Sequence[_Point]) -> None:
    """Draw the three sorts of points, those on the front last and above the others."""
    fitting = [p for p in points if p[4] and not p[3]]
    too_large = [p for p in points if not p[4]]
    front = sorted(p for p in points if p[3])

    def draw(chosen: Sequence[_Point], **style: object) -> None:
        # What has no points must not stand in the legend.
        if chosen:
            xs, ys = [p[0] for p in chosen], [p[1] for p in chosen]
            ax.plot(xs, ys, ms=6, **style)

    draw(fitting, marker="o", ls="none", color=_GREY, label="fits")
    hollow = {"mfc": "none", "color": _GREY, "label": "too large for the client"}
    draw(too_large, marker="o", ls="none", **hollow)
    line = {"color": _COLOURS[0], "ls": "--", "lw": 1, "label": "Pareto front"}
    draw(front, marker="D", **line)


def _dress_points(ax: Drawing, xlabel: str, ylabel: str) -> None:
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    for axis in (ax.xaxis, ax.yaxis):
        plain_numbers(axis)
    ax.margins(0.12)
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis: Drawing) -> None:
    """Number an axis of epochs or rounds, of which there is none between two others.

    Args:
        axis: of matplotlib.
    """
    from matplotlib.ticker import MaxNLocator

    # By itself it wants two numbers, and gives up whole ones where there is one epoch.
    axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def plain_numbers(axis: Drawing, unit: str = "") -> None:
    """Write the numbers of a logarithmic axis with prefixes, and as many as it has room for.

    Args:
        axis: of matplotlib, with all that is drawn.
        unit: of its numbers.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    shown = EngFormatter(unit)
    axis.set_major_formatter(shown)
    low, high = axis.get_view_interval()
    # Less than two decades may hold one power of ten, or none, and one number tells
    # no scale; on more, minor numbers would overlap.
    axis.set_minor_formatter(shown if high < 100 * low else NullFormatter())
    if 3 * low < high < 100 * low:
        # All of them would overlap as well.
        subs = (2, 3, 5) if high < 10 * low else (2, 5)
        axis.set_minor_locator(LogLocator(subs=subs))
        # Their ticks are shorter, and their numbers are to stand in one line with the others.
        axis.set_tick_params(which="minor", pad=5)
