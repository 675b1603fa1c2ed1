"""Figures of demo.py, from its rows: learning curves, and the six configurations as drawings.

python experiments/paper/plot_demo.py results/demo.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jsplit
from experiments.common.models import Family, network, tasks_of, topology

# Okabe and Ito's colours; each line is narrower than the one below it, so that all are seen where
# they coincide
LINES = {
    "whole, two tasks": ("#F3CDAE", 7.0),
    "multitask": ("#D55E00", 1.6),
    "whole": ("#C4C4C4", 12.0),
    "vanilla": ("#0072B2", 9.0),
    "u_shaped": ("#E69F00", 7.0),
    "vertical": ("#009E73", 5.0),
    "extended_vanilla": ("#CC79A7", 3.0),
    "multihop": ("#000000", 1.0),
}
TITLES = {
    "vanilla": "Vanilla",
    "u_shaped": "U-shaped: labels stay with the data",
    "vertical": "Vertical: fields divided",
    "extended_vanilla": "Extended vanilla",
    "multitask": "Multi-task",
    "multihop": "Multi-hop",
}
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


def figures(rows: Sequence[Mapping], out: Path) -> list[Path]:
    """Draw everything; returns the files written."""
    written = []
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        written.append(save(curves(own), out / f"demo_{data}.png"))
    first = [row for row in rows if row["data"] == rows[0]["data"]]
    return [*written, save(drawings(first), out / "demo_configurations.png")]


def save(drawn: Figure, path: Path) -> Path:
    drawn.savefig(path, dpi=150)
    return path


def curves(rows: Sequence[Mapping]) -> Figure:
    """Test accuracy, training loss, and how far the parameters are from the whole model's."""
    drawn = Figure(figsize=(13.5, 5.2), layout="constrained")
    accuracy, loss, exact = drawn.subplots(1, 3, width_ratios=(1, 1, 0.85))
    first, each = rows[0], rows[0]["records"][0] // rows[0]["batch"]
    order = [row for name in LINES for row in rows if row["configuration"] == name]
    for row in order:
        color, width = LINES[row["configuration"]]
        epochs = [n / each for n in row["curves"]["step"]]
        style = {
            "color": color,
            "lw": width,
            "solid_capstyle": "round",
            "solid_joinstyle": "round",
        }
        # A line of one point is not seen.
        if len(epochs) == 1:
            style |= {"marker": "o", "ms": 1.5 * width}
        accuracy.plot(
            epochs,
            row["curves"]["accuracy"][row["tasks"][0]],
            label=row["configuration"],
            **style,
        )
        loss.plot(epochs, row["curves"]["loss"], **style)
    accuracy.set(title=f"Test accuracy ({first['tasks'][0]})", xlabel="epoch")
    loss.set(title="Training loss (two tasks: the sum)", xlabel="epoch", yscale="log")
    for ax in (accuracy, loss):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(color="#EEEEEE")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    exactness(exact, [row for row in order if "whole" in row])
    drawn.legend(
        *accuracy.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(order),
        frameon=False,
        handlelength=2.4,
    )
    drawn.suptitle(
        f"{first['data']}: the same network whole and split, {first['steps']} steps, "
        f"{first['optimizer']}, seed {first['seed']}"
    )
    return drawn


def exactness(ax: Axes, rows: Sequence[Mapping]) -> None:
    """One row per configuration; zero has a place of its own on the logarithmic axis."""
    epsilon = EPSILON[rows[0]["precision"]]
    places = range(len(rows))
    steps = rows[0]["steps"], rows[0]["steps_messages"]
    values = [r["difference"] for r in rows], [r["difference_messages"] for r in rows]
    ax.axvline(epsilon, color="#999999", ls=":", lw=1.2)
    ax.text(epsilon, -0.45, " machine epsilon", fontsize=8, color="#666666", va="top")
    ax.plot(
        values[0],
        places,
        "o",
        color="#0072B2",
        ms=9,
        label=f"fused and whole, after {steps[0]} steps",
    )
    ax.plot(
        values[1],
        places,
        "D",
        color="#D55E00",
        ms=6,
        label=f"messages and fused, after {steps[1]} steps",
    )
    # Logarithmic but for 0, which many differences are exactly.
    ax.set_xscale("symlog", linthresh=epsilon / 10)
    ax.set(
        xlim=(-epsilon / 30, max(1000 * epsilon, 3 * max(map(max, values)))),
        ylim=(len(rows) - 0.5, -0.5),
    )
    ax.set_yticks(places, [r["configuration"] for r in rows])
    ax.set_title("Largest relative difference, parameters", fontsize=11)
    ax.grid(axis="y", color="#EEEEEE")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, fontsize=9)


def drawings(rows: Sequence[Mapping]) -> Figure:
    """Every configuration among the rows, as who holds what and what crosses."""
    names = [
        name for name in TITLES if any(row["configuration"] == name for row in rows)
    ]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    drawn = Figure(figsize=(6.2 * columns, 6.8 * lines), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
    grid = drawn.subplots(
        lines, columns, squeeze=False, height_ratios=[1.0, 1.25][:lines]
    ).ravel()
    # Five configurations leave a place over.
    for ax in grid[len(names) :]:
        ax.set_axis_off()
    # A drawing is laid out by the size of its axes, which they have only after a layout.
    drawn.draw_without_rendering()
    for ax, name in zip(grid, names, strict=False):
        jsplit.figure(
            parts(next(row for row in rows if row["configuration"] == name)), ax=ax
        )
        ax.set_title(TITLES[name], fontsize=13, pad=8)
    return drawn


def parts(row: Mapping) -> jsplit.Topology:
    """The topology of a row, built anew."""
    shapes = {name: tuple(shape) for name, shape in row["family"]["fields"].items()}
    family = Family(**{**row["family"], "fields": shapes})
    name = row["configuration"]
    return topology(family, name, network(family, tasks_of(family, name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "rows",
        type=Path,
        nargs="?",
        default=Path("results/demo.json"),
        help="what demo.py wrote",
    )
    file = parser.parse_args().rows
    if not file.is_file():
        parser.exit(2, f"{parser.prog}: there is no {file}; run demo.py first\n")
    for written in figures(json.loads(file.read_text()), file.parent):
        print(f"wrote {written}")


if __name__ == "__main__":
    main()
