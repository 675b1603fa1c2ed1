"""Figure of compare_rounds.py: the accuracy of every client under every algorithm.

python experiments/paper/plot_compare_rounds.py results/compare_rounds.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SHARED, OWN = "#0072B2", "#D55E00"
ALL = {"marker": "D", "ms": 4.5, "mfc": "white", "mec": "black", "mew": 1}


def clients(rows: Sequence[Mapping]) -> Figure:
    """A panel for each population; a dot for each client, on records such as its own, and their
    mean.
    """
    settings = list(dict.fromkeys((r["data"], r["population"]) for r in rows))
    names = list(dict.fromkeys(r["algorithm"] for r in rows))
    # Two panels a line, rounded up.
    lines = -(-len(settings) // 2)
    drawn = Figure(
        figsize=(11, 0.9 + lines * (0.9 + 0.26 * len(names))), layout="constrained"
    )
    panels = drawn.subplots(
        lines, min(2, len(settings)), squeeze=False, sharey=True
    ).ravel()
    # An odd number leaves a panel over.
    for ax in panels[len(settings) :]:
        ax.set_axis_off()
    for ax, setting in zip(panels, settings, strict=False):
        own = {
            r["algorithm"]: r for r in rows if (r["data"], r["population"]) == setting
        }
        panel(ax, [own[name] for name in names if name in own], names)
    key = legend()
    drawn.legend(
        handles=key,
        loc="outside lower center",
        ncols=len(key),
        frameon=False,
        fontsize=9,
    )
    return drawn


def legend() -> list[Line2D]:
    """What the marks mean: those of the panels in the legend would be one for each client."""

    def dot(color: str, label: str) -> Line2D:
        return Line2D([], [], ls="", marker="o", ms=5, mew=0, color=color, label=label)

    bar = {"ls": "", "marker": "|", "ms": 12, "mew": 2.5, "color": "#555555"}
    line = {"ls": ":", "lw": 1, "color": "#999999"}
    return [
        dot(SHARED, "a client, one model for all"),
        dot(OWN, "a client, each its own model"),
        Line2D([], [], label="mean of clients", **bar),
        Line2D([], [], ls="", label="all test records", **ALL),
        Line2D([], [], label="always the commonest class", **line),
    ]


def panel(ax: Axes, rows: Sequence[Mapping], names: Sequence[str]) -> None:
    first = rows[0]
    for r in rows:
        y, colour = names.index(r["algorithm"]), OWN if r["own_models"] else SHARED
        kind = "each has its own model" if r["own_models"] else "one model for all"
        if r["accuracy"] is None:
            ax.text(0.02, y, "diverged", va="center", fontsize=8, color=colour)
            continue
        # Transparent: where many clients are as good, the dots lie on one another.
        ax.plot(
            r["each_client"],
            [y] * len(r["each_client"]),
            "o",
            ms=4,
            mew=0,
            alpha=0.3,
            color=colour,
            label=f"client, {kind}",
        )
        ax.plot(
            r["clients_mean"],
            y,
            "|",
            ms=15,
            mew=2.5,
            color=colour,
            label="mean of clients",
        )
        ax.plot(
            r["accuracy"],
            y,
            "D",
            ms=4.5,
            mfc="white",
            mec="black",
            mew=1,
            label="all test records",
        )
    ax.axvline(
        first["majority"],
        color="#999999",
        ls=":",
        lw=1,
        label="always the commonest class",
    )
    ax.set(
        # From above, in the order of the table.
        ylim=(len(names) - 0.5, -0.5),
        # A little below 0, where the dot of a client may lie whose model is wrong throughout.
        xlim=(-0.02, 1.02),
        xlabel="accuracy on test data",
    )
    ax.set_yticks(range(len(names)), names)
    least, most = first["records"]
    sizes = f"{least} to {most}" if least < most else str(least)
    ax.set_title(
        f"{first['data']}, {first['population']}: {first['clients']} clients of {sizes} records",
        fontsize=10,
    )
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def save(rows: Sequence[Mapping], path: Path) -> Path:
    clients(rows).savefig(path, dpi=100)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "rows",
        type=Path,
        nargs="?",
        default=Path("results/compare_rounds.json"),
        help="of compare_rounds.py",
    )
    file = parser.parse_args().rows
    if not file.is_file():
        parser.exit(
            2, f"{parser.prog}: there is no {file}; run compare_rounds.py first\n"
        )
    print(f"wrote {save(json.loads(file.read_text()), file.with_suffix('.png'))}")


if __name__ == "__main__":
    main()
