"""What leaks over a cut, by attack, defence and depth, beside what others report? With intervals.

Labels: attacks on the cotangents that come back to a client without labels, of Li et al. 2022,
with clusters of directions and with model completion beside; see privacy_labels.py. Inputs:
attacks on the activations that come to a server, by depth of the cut; see privacy_inputs.py. Every
number is the mean over seeds with Student's 95 % interval; a seed draws parameters, order, noise,
and which records are trained and tested on where the data has no such parts. All attacks are
lower bounds of what leaks.

    python experiments/paper/privacy.py
    # data of one's own; for its layout see data.py
    python experiments/paper/privacy.py --data credit_default.npz --only labels
    python experiments/paper/privacy.py --data mnist.npz --limit 6000 --only inputs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from experiments.common.harness import positive, records
from experiments.common.report import table
from experiments.paper import plot_privacy
from experiments.paper.privacy_inputs import CUTS, NOPEEK, inputs
from experiments.paper.privacy_labels import labels
from experiments.paper.reported import CRITEO
from experiments.paper.reported import NOPEEK as REPORTED

PARTS = ("labels", "inputs")
Row = Mapping[str, object]


def over_seeds(values: Sequence[float]) -> dict[str, float | list[float] | None]:
    """The mean, and Student's 95 % interval of it, which one seed does not have."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"mean": mean, "interval": None}
    reach = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / count**0.5)
    return {"mean": mean, "interval": [mean - reach, mean + reach]}


def summed_up(rows: Sequence[dict]) -> list[dict]:
    """One row for each setting, its numbers over seeds."""
    found = []
    for at in dict.fromkeys((r["part"], r["cut"], r["defence"]) for r in rows):
        own = [r for r in rows if (r["part"], r["cut"], r["defence"]) == at]
        row: dict = dict(zip(("part", "cut", "defence"), at, strict=True))
        row["seeds"] = len(own)
        for kind in ("numbers", "controls", "seconds"):
            each = {n: [r[kind][n] for r in own] for n in own[0][kind]}
            row[kind] = {n: over_seeds(values) for n, values in each.items()}
        row["reported"] = reported(row["part"], row["defence"])
        found.append(row)
    return found


def reported(part: str, defence: str) -> dict:
    """What others print of the same defence, of other data and networks."""
    if part == "labels":
        return CRITEO.get(defence, {})
    return REPORTED.get(defence.split()[0], {})


def shown(number: Mapping, digits: int = 3) -> str:
    """A mean, and half of its interval."""
    if number["interval"] is None:
        return f"{number['mean']:.{digits}f}"
    reach = number["interval"][1] - number["mean"]
    return f"{number['mean']:.{digits}f} ± {reach:.{digits}f}"


def tables(summary: Sequence[dict]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and cells of each part's measures, and of its times and controls."""
    for part in PARTS:
        rows = [r for r in summary if r["part"] == part]
        if not rows:
            continue
        at = ["cut", "defence"]
        numbers = list(rows[0]["numbers"])
        cells = [
            [r["cut"], r["defence"], *(shown(r["numbers"][n]) for n in numbers)]
            for r in rows
        ]
        yield f"{part}: measured", [*at, *numbers], cells
        cells = [
            [r["cut"], r["defence"], name, shown(r["numbers"][name]), _printed(x)]
            for r in rows
            for name, x in r["reported"].items()
        ]
        if cells:
            columns = [*at, "number", "here", "by others, of other data"]
            yield f"{part}: reported by others", columns, cells
        controls, times = list(rows[0]["controls"]), list(rows[0]["seconds"])
        cells = [
            [r["cut"], r["defence"], *(shown(r["controls"][n]) for n in controls)]
            + [f"{r['seconds'][n]['mean']:.1f}" for n in times]
            for r in rows
        ]
        columns = [f"control of {n}" for n in controls]
        columns += [f"{n}, s a seed" for n in times]
        yield f"{part}: nothing to find, and times", [*at, *columns], cells


def _printed(x: float | Sequence[float]) -> str:
    values = x if isinstance(x, Sequence) else [x]
    return ", ".join(f"{v:.3g}" for v in values)


def markdown(summary: Sequence[dict], said: str) -> str:
    """All tables, below what was run."""
    lines = [said, ""]
    for title, columns, cells in tables(summary):
        lines += [f"## {title}", "", _line(columns), _line(["---"] * len(columns))]
        lines += [*(_line(row) for row in cells), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="a name or an .npz file")
    parser.add_argument("--limit", type=positive, help="records of each part at most")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--only", choices=PARTS, help="labels or inputs")
    parser.add_argument(
        "--cuts",
        nargs="+",
        choices=CUTS,
        default=["conv 1, tanh", "conv 1", "dense 64"],
    )
    parser.add_argument("--steps", type=positive, help="of training: 69, inputs 400")
    parser.add_argument(
        "--nopeek", nargs="+", type=float, default=[NOPEEK], help="its weights"
    )
    parser.add_argument("--decoder", type=positive, default=500, help="its steps")
    parser.add_argument("--unsplit", type=positive, default=300, help="its turns")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder")
    options = parser.parse_args(arguments)
    try:
        data = records(options.data, options.limit)
    except ValueError as e:
        parser.error(f"argument --data: {e}")
    # A table has no pictures to rebuild.
    options.parts = [options.only] if options.only else list(PARTS)
    if data.train["record"].ndim != 4 and "inputs" in options.parts:
        if options.only:
            parser.error("argument --only: inputs are of pictures, and --data has none")
        options.parts.remove("inputs")
    options.name = data.name
    return options


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    options = parse(arguments)
    start, rows, pictures = time.perf_counter(), [], {}

    def load(seed: int):
        return records(options.data, options.limit, seed)

    def said(row: Row) -> None:
        print(json.dumps(row), flush=True)

    if "labels" in options.parts:
        rows += labels(load, options.seeds, options.steps or 69, said)
    if "inputs" in options.parts:
        budget = {"training": options.steps or 400, "decoder": options.decoder}
        budget["unsplit"] = options.unsplit
        what = options.cuts, options.nopeek
        found, pictures = inputs(load, options.seeds, *what, budget, said)
        rows += found
    summary = summed_up(rows)
    for title, columns, cells in tables(summary):
        table(title, columns, cells)
    seconds = time.perf_counter() - start
    limit = f", at most {options.limit} records" if options.limit else ""
    what = f"{options.name}{limit}, {options.seeds} seeds, {seconds:.0f} s"
    options.out.mkdir(parents=True, exist_ok=True)
    part = f"_{options.only}" if options.only else ""
    file = options.out / f"privacy_{options.name}{part}.json"
    kept = {"what": what, "summary": summary, "rows": rows}
    kept["pictures"] = {n: np.round(x, 4).tolist() for n, x in pictures.items()}
    file.write_text(json.dumps(kept))
    file.with_suffix(".md").write_text(markdown(summary, what))
    drawn = plot_privacy.save(kept, file.with_suffix(".png"))
    print(f"{what}\nwrote {file}, {file.with_suffix('.md')} and {drawn}")
    return summary


if __name__ == "__main__":
    main()
