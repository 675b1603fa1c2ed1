"""Figure of tables.py: what a client transfers, by the number of clients, and the paper's points.

python experiments/paper/plot_tables.py results/tables.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.paper.reported import CLIENTS, PAPER

COLOURS = {"split": "#0072B2", "federated": "#D55E00", "large-batch SGD": "#009E73"}


def regimes(table: Mapping[str, Any], paper: Mapping[str, Any]) -> Figure:
    """Split learning sends less the more clients there are, federated averaging does not."""
    drawn = Figure(figsize=(7.5, 4.8), layout="constrained")
    ax = drawn.subplots()
    clients, giga = np.geomspace(20, 2000, 100), table["giga"]
    # All clients together send what all records cost, so each sends its share of it.
    ax.plot(
        clients,
        table["split_total"] / clients / giga,
        color=COLOURS["split"],
        label="split, 2 passes",
    )
    # A client of federated averaging sends its model in every round, however many others there are.
    federated = table["rounds"] * table["round_trip"] / giga
    ax.plot(
        clients,
        np.full(100, federated),
        color=COLOURS["federated"],
        label=f"federated, {table['rounds']:.1f} rounds",
    )
    # What the paper reports, on the curves that explain it; for large-batch SGD none does.
    for method, colour in COLOURS.items():
        ax.plot(
            CLIENTS,
            paper[method]["GB"],
            "o",
            color=colour,
            ms=7,
            label=f"{method}, Table 2",
        )
    ax.axvline(table["crossover"], color="#999999", ls=":", lw=1)
    ax.annotate(
        f"{table['crossover']:.0f} clients",
        (table["crossover"], 20),
        (5, 0),
        textcoords="offset points",
        fontsize=8,
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="clients that share 50 000 records",
        ylabel="GB ($2^{30}$ bytes) per client",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    ax.set_title("ResNet-50 at 224 x 224: who sends less", fontsize=11)
    ax.grid(color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    # In one column: a second would lie on the dotted line.
    ax.legend(loc="lower left", frameon=False, fontsize=8)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "rows",
        type=Path,
        nargs="?",
        default=Path("results/tables.json"),
        help="what tables.py wrote",
    )
    file = parser.parse_args().rows
    if not file.is_file():
        parser.exit(2, f"{parser.prog}: there is no {file}; run tables.py first\n")
    written = file.parent / "tables_regimes.png"
    regimes(json.loads(file.read_text())["table2"], PAPER).savefig(written, dpi=150)
    print(f"wrote {written}")


if __name__ == "__main__":
    main()
