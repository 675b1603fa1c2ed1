"""What does the guard of `jsplit.party.run` cost of a step?

Two parties train over gRPC on this machine, in one process; runs with the guard and without
take turns, and the medians of the client's steps are compared, of each pair of runs by itself.

    python experiments/privacy/guard_cost.py
"""

from __future__ import annotations

import argparse
import socket
import statistics
import threading
import time
from typing import NamedTuple

import numpy as np
import optax

from experiments.common import report
from experiments.common.harness import positive
from experiments.privacy.guard import BATCH, Case, problem, topology
from jsplit import party


class Timed(NamedTuple):
    """Seconds of each step of the client, and how many windows its guard has judged."""

    steps: list[float]
    windows: int


def timed(split: str, steps: int, guard: party.Guard | None) -> Timed:
    on = problem("digits", "classes", 0)
    whole = topology(Case(split, "honest"), on)
    fields = {"record": on.record[:BATCH], "label": on.label[:BATCH]}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    agreed = party.agreement(whole, fields, steps=steps, addresses={"server": address})
    at: list[float] = []
    results: dict[str, party.Result] = {}

    def one(name: str) -> None:
        held = {f: fields[f] for f in whole.holds.get(name, ())}
        results[name] = party.run(
            agreed,
            name,
            whole,
            lambda step: held,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optax.adam(1e-3),
            on_step=(lambda _: at.append(time.perf_counter()))
            if name == "client"
            else None,
            guard=guard,
        )

    threads = [threading.Thread(target=one, args=(name,)) for name in agreed.parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The first ones are of a start.
    return Timed(list(np.diff(at))[10:], len(results["client"].evidence))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--pairs", type=positive, default=7, help="of runs")
    options = parser.parse_args()
    rows = []
    for split in ("vanilla", "u_shaped"):
        ratios, medians = [], ([], [])
        for _ in range(options.pairs):
            pair = [timed(split, options.steps, g) for g in (None, party.Guard())]
            off, on = (statistics.median(t.steps) for t in pair)
            assert pair[1].windows == options.steps // party.Guard().window
            ratios.append(on / off)
            medians[0].append(off)
            medians[1].append(on)
        low, *_, high = sorted(ratios)
        off, on = (f"{1e3 * statistics.median(m):.2f} ms" for m in medians)
        middle = statistics.median(ratios)
        rows.append([split, off, on, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"])
        print(*rows[-1], sep="  ", flush=True)
    columns = ("split", "without", "with", "ratio", "of the pairs")
    report.table("median step of the client", columns, rows)


if __name__ == "__main__":
    main()
