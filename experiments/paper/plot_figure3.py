"""Figure of figure3.py: test accuracy against what a client has computed, and has transferred.

python experiments/paper/plot_figure3.py results/figure3_digits.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.paper.equal_cost import AXES, SPLIT

COLOURS = {SPLIT: "#0072B2", "FedAvg": "#D55E00", "large-batch SGD": "#009E73"}
PREFIXES = ("", "k", "M", "G", "T", "P")
UNITS = {"flops": "FLOP", "bytes": "B"}
VERBS = {"flops": "computed", "bytes": "sent and received"}


def curves(rows: Sequence[Mapping]) -> Figure:
    """A column of panels for each network and number of clients; two side by side where there is
    but one.
    """
    settings = list(dict.fromkeys((r["network"], r["clients"]) for r in rows))
    one = len(settings) == 1
    drawn = Figure(
        figsize=(11, 4.8) if one else (4.2 * len(settings), 8.2), layout="constrained"
    )
    panels = drawn.subplots(
        1 if one else 2, 2 if one else len(settings), sharey=True, squeeze=False
    )
    panels = panels.T if one else panels
    for column, (network, clients) in enumerate(settings):
        own = [r for r in rows if (r["network"], r["clients"]) == (network, clients)]
        for row, what in enumerate(AXES):
            ax = panels[row][column]
            panel(ax, own, what)
            if column == 0 and (row == 0 or not one):
                ax.set_ylabel("accuracy on test data")
        first = own[0]
        title = (
            f"{clients} clients of {first['records'] // clients} records, {network} network\n"
            f"{first['parameters']:,} parameters; split, a client does "
            f"{100 * first['share']:.2g} % of the work"
        )
        if one:
            drawn.suptitle(f"{first['data']}: {title}", fontsize=11)
        else:
            panels[0][column].set_title(title, fontsize=9)
    if not one:
        drawn.suptitle(
            f"{rows[0]['data']}: accuracy against what it costs a client", fontsize=12
        )
    # One scale for all panels, so that networks can be compared.
    top = max(max(r["accuracy"]) for r in rows)
    panels[0][0].set_ylim(0, min(1, np.ceil(10 * top + 0.2) / 10))  # of all
    seeds = len({r["seed"] for r in rows})
    handles, labels = panels[0][0].get_legend_handles_labels()
    note = (
        f"mean of {seeds} seeds; thin: each seed; dot: after the first round; "
        "dotted: where SplitNN ends"
    )
    drawn.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        title=note,
        title_fontsize=8,
    )
    return drawn


def unit_of(what: str, most: float) -> tuple[str, float]:
    """The unit in which the most that was spent is a number from 1 to 1,000, and its size."""
    power = min(max(int(np.log10(max(most, 1)) // 3), 0), len(PREFIXES) - 1)
    return PREFIXES[power] + UNITS[what], 1000.0**power


def panel(ax: Axes, rows: Sequence[Mapping], what: str) -> None:
    unit, size = unit_of(what, max(r[what][-1] for r in rows))
    for title in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == title]
        colour = COLOURS[title.partition(",")[0]]
        style: dict[str, Any] = {"color": colour, "ls": "--" if "," in title else "-"}
        # The start, where nothing is spent, lies at no place on a logarithmic axis.
        x = np.array(own[0][what][1:]) / size
        for r in own:
            ax.plot(x, r["accuracy"][1:], lw=0.6, alpha=0.45, **style)
        mean = np.mean([r["accuracy"][1:] for r in own], axis=0)
        ax.plot(x, mean, lw=2, label=title, **style)
        # The first round of a method that works locally for long begins far to the right.
        ax.plot(x[0], mean[0], "o", ms=5, color=colour)
        if title == SPLIT:
            ax.axvline(x[-1], color=colour, ls=":", lw=1)
    # Before training: what guessing gives.
    chance = float(np.mean([r["accuracy"][0] for r in rows]))
    ax.axhline(chance, color="#999999", lw=0.8)
    ax.text(
        0.99,
        chance + 0.01,
        "untrained",
        transform=ax.get_yaxis_transform(),
        ha="right",
        fontsize=7,
        color="#666666",
    )
    ax.set(xscale="log", xlabel=f"{VERBS[what]} by a client, {unit}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def save(rows: Sequence[Mapping], path: Path) -> Path:
    curves(rows).savefig(path, dpi=100)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "rows",
        type=Path,
        nargs="?",
        default=Path("results/figure3_digits.json"),
        help="what figure3.py wrote",
    )
    file = parser.parse_args().rows
    if not file.is_file():
        parser.exit(2, f"{parser.prog}: there is no {file}; run figure3.py first\n")
    print(
        f"wrote {save(json.loads(file.read_text())['curves'], file.with_suffix('.png'))}"
    )


if __name__ == "__main__":
    main()
