"""The picture of a plan whose cuts have a score of what leaks: bytes, leak, seconds and cut.

Three aims on two axes: bytes to the right, the leak upwards, seconds as colour. A front of
three aims is no line, so its points are numbered, and the legend names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jsplit.core.tables import Drawing, blank_figure, plain_numbers, si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARK = "†"
"""Of a cut where more may leak than was found."""

_INK, _GREY = "#222222", "#9A9A9A"


class Dot(NamedTuple):
    """One cut.

    Attributes:
        name: Of the cut.
        bytes: Of a step.
        seconds: Of a step.
        leak: What leaks.
        interval: Within which that lies, if known.
        front: Whether it is on the front.
        fits: Whether the client has the memory.
        chance: What a guess gets, if known.
        doubt: Whether more may leak.
    """

    name: str
    bytes: int
    seconds: float
    leak: float
    interval: tuple[float, float] | None
    front: bool
    fits: bool
    chance: float | None = None
    doubt: bool = False


def leak_picture(dots: Sequence[Dot], leak: str, *, larger_leaks: bool) -> Figure:
    """Draw what leaks at each cut against the bytes of a step, coloured by its seconds.

    Args:
        dots: the cuts.
        leak: what the number of a leak is.
        larger_leaks: whether a larger one is a larger leak; else the axis is turned.

    Returns:
        A figure of Matplotlib's own.
    """
    from matplotlib.colors import LogNorm

    drawn: Drawing = blank_figure((10, 5.4), constrained=True)
    ax = drawn.subplots()
    times = [d.seconds for d in dots]
    low, high = min(times), max(times)
    # Of equal seconds a scale would have no length.
    norm = LogNorm(low / 1.05, high * 1.05)
    front = sorted((d for d in dots if d.front), key=lambda d: (d.bytes, d.leak))
    shapes = {
        "Pareto front": ("D", 60, front),
        "fits": ("o", 34, [d for d in dots if d.fits and not d.front]),
        "too large for the client": ("x", 34, [d for d in dots if not d.fits]),
    }
    # Under the points, which say more.
    for d in dots:
        if d.interval is not None:
            ax.plot([d.bytes] * 2, d.interval, color=_GREY, lw=1, zorder=1)
    # A frame tells the lightest colours from the paper; a cross has none.
    shown = None
    for label, (marker, size, some) in shapes.items():
        if some:
            edge = {} if marker == "x" else {"edgecolors": _INK, "linewidths": 0.7}
            shown = ax.scatter(
                [d.bytes for d in some],
                [d.leak for d in some],
                c=[d.seconds for d in some],
                norm=norm,
                cmap="viridis_r",
                marker=marker,
                s=size,
                zorder=2,
                label=label,
                **edge,
            )
    _named(ax, dots, front)
    ax.set(xscale="log", xlabel="bytes per step, both ways", ylabel=leak)
    plain_numbers(ax.xaxis, "B")
    ax.margins(0.12)
    if not larger_leaks:
        # Whatever is measured, who is farther up gives away more.
        ax.invert_yaxis()
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    bar = drawn.colorbar(shown, ax=ax, label="seconds per step", pad=0.02)
    plain_numbers(bar.ax.yaxis, "s")
    where = "outside right upper"
    drawn.legend(loc=where, frameon=False, fontsize=8, handlelength=1.2)
    return drawn


def _named(ax: Axes, dots: Sequence[Dot], front: Sequence[Dot]) -> None:
    """Number the front, mark what is in doubt, and draw what a guess gets."""
    for number, d in enumerate(front, start=1):
        mark = MARK if d.doubt else ""
        text = f"{number}  {d.name}, {d.seconds:.3g} s, {si(d.bytes)} B, {d.leak:.3g}"
        ax.plot([], [], ls="none", label=text + mark)
    numbers = {d.name: str(n) for n, d in enumerate(front, start=1)}
    at = {"xytext": (7, 5), "textcoords": "offset points", "fontsize": 9}
    for d in dots:
        if text := numbers.get(d.name, "") + (MARK if d.doubt else ""):
            ax.annotate(text, (d.bytes, d.leak), color=_INK, **at)
    if any(d.doubt for d in dots):
        ax.plot([], [], ls="none", label=f"{MARK}  more may leak: see the table")
    if guesses := [(d.bytes, d.chance) for d in dots if d.chance is not None]:
        style = {"ls": "none", "marker": "_", "ms": 14, "color": _GREY, "zorder": 1}
        ax.plot(*zip(*guesses, strict=True), label="what a guess gets", **style)
