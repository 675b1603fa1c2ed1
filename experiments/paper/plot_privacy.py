"""Figure of privacy.py: what each attack finds under each defence, and what a decoder sees.

python experiments/paper/plot_privacy.py results/privacy_digits.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
ATTACKS = ("norm", "cosine", "clusters", "completion")
DRAWN = 10  # records a row
# Of each decade of a mean squared error; the first alone where there are many decades.
TICKS = (1, 2, 5)
LEAST = 1e-3  # of an axis of such errors: what lies below is none to see


def figure(found: Mapping) -> Figure:
    """The parts that were run, one above the other."""
    rows = found["summary"]
    own = {p: [r for r in rows if r["part"] == p] for p in ("labels", "inputs")}
    pictures = {n: np.asarray(x) for n, x in found["pictures"].items()}
    heights = {"labels": 0.9 + 0.34 * len(own["labels"]) if own["labels"] else 0}
    heights["inputs"] = 0.9 + 0.34 * len(own["inputs"]) if own["inputs"] else 0
    heights["pictures"] = 0.8 * len(pictures) + 0.5 if pictures else 0
    there = [p for p, height in heights.items() if height]
    sizes = [heights[p] for p in there]
    drawn = Figure(figsize=(9.5, sum(sizes) + 0.4), layout="constrained")
    drawn.suptitle(found["what"].rsplit(",", 1)[0], fontsize=11)
    parts = drawn.subfigures(len(there), 1, squeeze=False, height_ratios=sizes)
    for name, part in zip(there, parts[:, 0], strict=True):
        if name == "pictures":
            decoded(part, pictures)
        elif name == "labels":
            left, right = part.subplots(1, 2, sharey=True, width_ratios=[3, 1])
            dots(left, own[name], ATTACKS, "leak AUC of labels (0.5: nothing)")
            left.axvline(0.5, color="#999999", ls=":", lw=1)
            dots(right, own[name], ("test AUC",), "test AUC", ("#555555",))
        else:
            left, right = part.subplots(1, 2, sharey=True, width_ratios=[3, 1])
            errors = ("decoder MSE", "UnSplit MSE", "floor")
            dots(left, own[name], errors, "MSE of inputs (small: they are read)")
            left.set_xscale("log")
            # The labels of a short axis of logarithms would lie over each other.
            left.xaxis.set_minor_formatter(NullFormatter())
            ticked(left)
            colours = ("#555555", "#CC79A7")
            dots(right, own[name], ("accuracy", "dCor"), "accuracy, dCor", colours)
    return drawn


def ticked(ax: Axes) -> None:
    """Numbers, and not powers, along a short axis of logarithms."""
    low, high = ax.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = TICKS if high < 100 * low else TICKS[:1]
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.set_xlim(low, high)


def dots(
    ax: Axes,
    rows: Sequence[Mapping],
    measures: Sequence[str],
    title: str,
    colours: Sequence[str] = COLOURS,
) -> None:
    """A line for each defence, a dot for the mean of each measure, a bar for its interval."""
    for i, name in enumerate(measures):
        numbers = [r["numbers"][name] for r in rows]
        # Side by side in a line, so that equal ones are all seen.
        y = np.arange(len(rows)) + (i - (len(measures) - 1) / 2) * 0.16
        for at, number in zip(y, numbers, strict=True):
            if number["interval"] is not None:
                low, high = number["interval"]
                # On a scale of logarithms nothing lies at or below 0.
                start = max(low, min(LEAST, number["mean"]))
                ax.plot([start, high], [at, at], color=colours[i], lw=1.5)
        means = [n["mean"] for n in numbers]
        ax.plot(means, y, "o", ms=4.5, color=colours[i], label=name)
    cuts = {r["cut"] for r in rows}
    labels = [
        r["defence"] if len(cuts) == 1 else f"{r['cut']}: {r['defence']}" for r in rows
    ]
    ax.set_yticks(np.arange(len(rows)), labels, fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(title, fontsize=9)
    ax.grid(axis="y", color="#eeeeee")
    ax.spines[["top", "right"]].set_visible(False)
    if len(measures) > 1:
        ax.legend(
            *(ax.get_legend_handles_labels()),
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=len(measures),
            frameon=False,
            fontsize=8,
        )


def decoded(part: SubFigure, pictures: Mapping[str, np.ndarray]) -> None:
    """Originals, and below them what the decoder took them for under each defence."""
    part.suptitle("what a decoder takes them for, at the last of the cuts", fontsize=9)
    count = min(DRAWN, *(len(x) for x in pictures.values()))
    grid = part.subplots(len(pictures), count, squeeze=False)
    for line, (name, images) in zip(grid, pictures.items(), strict=True):
        for ax, image in zip(line, images, strict=False):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(
            name.replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=8
        )


def save(found: Mapping, file: Path) -> Path:
    figure(found).savefig(file, dpi=150)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="what privacy.py wrote")
    file = parser.parse_args().file
    print(f"wrote {save(json.loads(file.read_text()), file.with_suffix('.png'))}")


if __name__ == "__main__":
    main()
