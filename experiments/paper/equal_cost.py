"""Who is ahead at equal cost to a client, as figure3.py says it.

Rows are runs, by method and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

BUDGETS = (0.25, 0.5, 1.0)  # of what the method that costs least has spent when it ends
AXES = {"flops": ("TFLOP", 1e12), "bytes": ("MB", 1e6)}
SPLIT = "SplitNN"


def at_cost(row: Mapping, what: str, budget: float) -> float:
    """The accuracy that a run had when it had spent `budget` at most."""
    # Costs are sums of floats, so an equal one may lie above by the last bit.
    reached = np.searchsorted(row[what], budget * (1 + 1e-9), side="right")
    return row["accuracy"][int(reached) - 1]


def verdicts(rows: Sequence[Mapping]) -> list[dict]:
    """At each budget, accuracies by seed, and whether split learning is ahead of all others."""
    found = []
    for what in AXES:
        least = min(row[what][-1] for row in rows)
        for part in BUDGETS:
            got: dict[str, list[float]] = {}
            for row in rows:
                got.setdefault(row["method"], []).append(
                    at_cost(row, what, part * least)
                )
            others = np.max([x for name, x in got.items() if name != SPLIT], axis=0)
            lead = np.array(got[SPLIT]) - others
            # In every seed, or nothing is said: there are too few of them for a test.
            said = "neither"
            if lead.min() > 0:
                said = "ahead"
            elif lead.max() < 0:
                said = "behind"
            found.append(
                {
                    "axis": what,
                    "budget": part * least,
                    "accuracy": got,
                    "lead": list(lead),
                    "split is": said,
                }
            )
    return found


def needed(rows: Sequence[Mapping], what: str, accuracy: float) -> tuple[float, bool]:
    """What a method spends until it is so accurate, by the mean of its seeds.

    Returns:
        That, or all that it spent, and whether it was so accurate.
    """
    mean = np.mean([row["accuracy"] for row in rows], axis=0)
    there = np.flatnonzero(mean >= accuracy)
    return (rows[0][what][there[0]], True) if len(there) else (rows[0][what][-1], False)
