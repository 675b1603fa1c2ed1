"""Numbers shown: as text in columns, as what JSON can hold, as bars, and as points on two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_INK, _GREY = "#222222", "#9A9A9A"


def plain(x: Any) -> Any:
    """The same as JSON has it."""
    if isinstance(x, tuple) and hasattr(x, "_asdict"):
        return {k: plain(v) for k, v in x._asdict().items()}  # type: ignore[attr-defined]
    if isinstance(x, Mapping):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (tuple, list)):
        return [plain(v) for v in x]
    return (
        x
        if isinstance(x, (int, float, str)) or x is None
        else x.item()
        if isinstance(x, np.number)
        else str(x)
    )


def si(x: float) -> str:
    """A number with a decimal prefix, four digits: `1.234 M`."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(x) < 999.95 or prefix == "P":
            return f"{x:.4g} {prefix}".strip()
        x /= 1000
    return ""


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (columns, *rows)
    ]


def bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """One panel for each quantity, one horizontal bar for each row in it, stacked from its parts.

    Args:
        panels: by title (with the unit), by row, by part: a number.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    count = max(len(rows) for rows in panels.values())
    drawn = Figure(
        figsize=(3.6 * len(panels) + 1, 0.42 * count + 1.5), layout="constrained"
    )
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        parts = list(
            dict.fromkeys(part for row in rows.values() for part, x in row.items() if x)
        )
        left = dict.fromkeys(rows, 0.0)
        for part, colour in zip(parts, _COLOURS, strict=False):
            values = {name: row.get(part, 0.0) for name, row in rows.items()}
            ax.barh(
                list(values),
                list(values.values()),
                left=[left[n] for n in values],
                height=0.6,
                color=colour,
                label=part,
            )
            left = {n: left[n] + x for n, x in values.items()}
        ax.set_title(title, fontsize=10, color=_INK)
        ax.xaxis.set_major_formatter(EngFormatter())
        ax.tick_params(length=0)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(axis="x", color="#E8E8E8")
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2,
            fontsize=8,
            frameon=False,
        )
    axes[0].invert_yaxis()
    return drawn


def scatter(
    points: Sequence[tuple[float, float, str, bool, bool]], xlabel: str, ylabel: str
) -> Figure:
    """Points on two logarithmic axes; those on the front are joined, numbered and named, those that do not fit are hollow.

    Args:
        points: `(x, y, name, front, fits)`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    drawn = Figure(figsize=(9.5, 5.2), layout="constrained")
    ax = drawn.subplots()
    front = sorted(p for p in points if p[3])
    for chosen, style in (
        (
            [p for p in points if p[4] and not p[3]],
            {"marker": "o", "color": _GREY, "label": "fits"},
        ),
        (
            [p for p in points if not p[4]],
            {
                "marker": "o",
                "mfc": "none",
                "color": _GREY,
                "label": "too large for the client",
            },
        ),
        (
            front,
            {
                "marker": "D",
                "color": _COLOURS[0],
                "ls": "--",
                "lw": 1,
                "label": "Pareto front",
            },
        ),
    ):
        if chosen:
            ax.plot(
                [p[0] for p in chosen],
                [p[1] for p in chosen],
                **{"ls": "none", "ms": 6, **style},
            )
    for i, (x, y, name, *_) in enumerate(front, start=1):
        ax.annotate(
            str(i), (x, y), (6, 5), textcoords="offset points", fontsize=9, color=_INK
        )
        ax.plot([], [], ls="none", label=f"{i}  {name}")
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(EngFormatter())
        low, high = axis.get_view_interval()
        axis.set_minor_formatter(EngFormatter() if high < 10 * low else NullFormatter())
    ax.margins(0.12)
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=1.2)
    return drawn
