"""What does the guard of `jsplit.party.run` cost of a step?

Two parties train over gRPC on this machine, in one process; runs with the guard and without
take turns. Compared are the processor's seconds of a step, of both parties together, which other
work on the machine changes little, and the median time of the client's steps.

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
    """Seconds of a step, and how many windows the client's guard has judged."""

    processor: float
    clock: float
    windows: int


def timed(split: str, steps: int, guard: party.Guard | None) -> Timed:
    on = problem("digits", "classes", 0)
    whole = topology(Case(split, "honest"), on)
    fields = {"record": on.record[:BATCH], "label": on.label[:BATCH]}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    agreed = party.agreement(whole, fields, steps=steps, addresses={"server": address})
    at: list[tuple[float, float]] = []
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
            on_step=(lambda _: at.append((time.process_time(), time.perf_counter())))
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
    processor, clock = np.diff(np.array(at)[10:], axis=0).T
    windows = len(results["client"].evidence)
    return Timed(float(processor.mean()), float(np.median(clock)), windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--pairs", type=positive, default=7, help="of runs")
    options = parser.parse_args()
    rows = []
    for split in ("vanilla", "u_shaped"):
        runs: list[list[Timed]] = []
        for _ in range(options.pairs):
            runs.append([timed(split, options.steps, g) for g in (None, party.Guard())])
            assert runs[-1][1].windows == options.steps // party.Guard().window
        for what in ("processor", "clock"):
            pairs = [[getattr(t, what) for t in pair] for pair in runs]
            off, on = (statistics.median(x) for x in zip(*pairs, strict=True))
            ratios = sorted(b / a for a, b in pairs)
            row = [split, what, f"{1e3 * off:.2f} ms", f"{1e3 * on:.2f} ms"]
            row.append(f"{statistics.median(ratios):.2f}")
            rows.append([*row, f"{ratios[0]:.2f} to {ratios[-1]:.2f}"])
            print(*rows[-1], sep="  ", flush=True)
    columns = ("split", "by", "without", "with", "ratio", "of the pairs")
    report.table("a step", columns, rows)


if __name__ == "__main__":
    main()
