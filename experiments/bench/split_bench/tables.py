"""The table of SplitBench: rows of a file over seeds, as text and as Markdown.

Means have Student's 95 % interval over seeds. The best attack is shown by its advantage: 0 is a
guess and 1 is everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from experiments.bench.split_bench.schema import failed

COLUMNS = (
    "contestant",
    "seeds",
    "accuracy %",
    "AUC %",
    "from whole",
    "rate",
    "client MFLOPs",
    "client kB",
    "client memory kB",
    "s a pass",
    "labels found",
    "records found",
    "guarantee",
)
FIRST, LAST = "<!-- rows: first -->", "<!-- rows: last -->"  # around a page's tables
LEGEND = """\
accuracy, AUC: of test records in per cent, the mean over seeds ± Student's 95 % interval.
from whole: largest difference of a weight to the whole model's after the last step, over seeds.
client: what a client computes and sends and receives in the whole training, on average over
clients, and what it holds at once. s a pass: median of interleaved blocks on this machine.
labels found, records found: advantage of the best attack over a guess (0) towards all (1), a
lower bound; * it may reach more with more steps. guarantee: of how many statements of
differential privacy an epsilon holds, and the largest. Empty: not measured or does not exist.
"""


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of Student's 95 % interval, which one value does not have."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, None
    return mean, float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / count**0.5)


def percent(values: Sequence[float | None]) -> str:
    if not values or None in values:
        return ""
    mean, reach = interval([x for x in values if x is not None])
    return f"{100 * mean:.1f}" + ("" if reach is None else f" ± {100 * reach:.1f}")


def attack(row: Mapping | None) -> str:
    """An attack: how far it got, by which, and whether more may be reached."""
    if row is None:
        return ""
    return f"{row['advantage']:.2f}{'*' if row['doubt'] else ''} ({row['attack']})"


def promise(row: Mapping | None) -> str:
    if row is None:
        return ""
    if not row["hold"]:
        return "none"
    return f"{row['hold']} of {row['statements']}: ε {row['weakest']:.3g}"


def number(x: float | None, unit: float = 1.0) -> str:
    if x is None:
        return ""
    # Thousands as they are: an exponent in a column of numbers is read wrongly.
    return f"{x / unit:.0f}" if x / unit >= 1000 else f"{x / unit:.3g}"


def title_of(row: Mapping) -> str:
    own = row["system"] == "jsplit"
    return row["contestant"] + ("" if own else f", {row['system']}")


def cells(runs: Sequence[Mapping], cost: Mapping, leak: Mapping) -> list[str]:
    """A line of the table."""
    accuracy = percent([r["accuracy"] for r in runs])
    without = [r for r in runs if r["accuracy"] is None]
    if without:
        said = "failed" if any(map(failed, without)) else "diverged"
        accuracy = f"{said} in {len(without)} of {len(runs)}"
    rate = next((r["rate"] for r in runs if r["rate"] is not None), None)
    if f"SGD {rate}" in runs[0]["optimizer"]:
        rate = None  # the title has it
    far = [r["from_whole"] for r in runs if r["from_whole"] is not None]
    return [
        title_of(runs[0]),
        str(len(runs)),
        accuracy,
        percent([r["auc"] for r in runs]),
        # What is the same bit for bit is 0, and no power of ten.
        f"{max(far):.1g}" if far else "",
        "" if rate is None else f"{rate:g}",
        number(cost.get("client_flops"), 1e6),
        number(cost.get("client_bytes"), 1e3),
        number(cost.get("client_memory"), 1e3),
        number(cost.get("seconds")),
        attack(leak.get("labels")),
        attack(leak.get("inputs")),
        promise(cost.get("guarantee")),
    ]


def grouped(document: Mapping) -> dict[tuple, list[Mapping]]:
    """Runs of each contestant, seeds in their order; contestants by what was trained."""
    groups: dict[tuple, list[Mapping]] = {}
    for row in document["runs"]:
        groups.setdefault((row["contestant"], row["system"]), []).append(row)
    return groups


def tables(document: Mapping) -> Iterable[tuple[str, list[list[str]]]]:
    """Title and lines: of the configurations by fields, and of the algorithms over clients."""
    costs, leaks = (
        {(r["contestant"], r["system"]): r for r in document[part]}
        for part in ("costs", "leaks")
    )
    by: dict[tuple, list[tuple[list[str], list[Mapping]]]] = {}
    for key, runs in grouped(document).items():
        runs = sorted(runs, key=lambda r: r["seed"])
        first = runs[0]
        at = (first["data"], first["population"], first["network"])
        line = cells(runs, costs.get(key, {}), leaks.get(key, {}))
        by.setdefault((*at, first["epochs"], first["batch"]), []).append((line, runs))
    for (data, population, network, epochs, batch), lines in by.items():
        first = lines[0][1][0]
        clients = f"{first['clients']} clients, " if population != "by fields" else ""
        title = (
            f"{data}, {clients}{population}: {first['train']} training and "
            f"{first['test']} test records, {first['classes']} classes; network: {network}; "
            f"{epochs} passes, batch {batch}; {first['optimizer']}"
        )
        yield title, [line for line, _ in lines]


def filled(lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Columns and lines without the columns that are empty in all of them."""
    kept = [i for i in range(len(COLUMNS)) if any(line[i] for line in lines)]
    return [COLUMNS[i] for i in kept], [[line[i] for i in kept] for line in lines]


def markdown(documents: Sequence[Mapping]) -> str:
    """All tables as a page has them; a column that is empty in a table is left out there."""
    text = []
    for document in documents:
        for title, lines in tables(document):
            columns, rows = filled(lines)
            text.append(f"**{title}**\n")
            for row in (columns, ["---"] * len(columns), *rows):
                text.append("| " + " | ".join(row) + " |")
            text.append("")
    return "\n".join(text)


def placed(page: str, tables: str) -> str:
    """A page with these tables between its marks, in place of what stood there.

    Raises:
        ValueError: if the page has not one mark of each kind, the first before the last.
    """
    before, first, rest = page.partition(FIRST)
    _, last, after = rest.partition(LAST)
    if not first or not last or FIRST in rest or LAST in after:
        raise ValueError(f"`page` must have {FIRST} once and then {LAST} once.")
    return f"{before}{FIRST}\n\n{tables}\n{LAST}{after}"
