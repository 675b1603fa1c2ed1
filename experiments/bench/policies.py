"""What does it cost to look for NaN, and to keep the state that a step was given?

The same training with each policy, in one process and in turns: `bare` donates the state and
lets NaN pass; `kept` does not donate; `skip` leaves bad steps out; `refuse`, the default, raises,
for which it waits for the end of every step or round. Steps of a small dense net and of a small
CNN, and rounds of one hundred clients of the dense one. Medians of ratios to `bare`.

    python experiments/bench/policies.py [--blocks 30] [--only NAME ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

import jsplit
from experiments.bench.two_trees import Convolutional, Dense, Work, round_of, step
from experiments.common.report import write_rows

POLICIES = {
    "bare": {"donate": True, "nonfinite": "allow"},
    "kept": {"nonfinite": "allow"},
    "skip": {"donate": True, "nonfinite": "skip"},
    "refuse": {},
}
WORK: dict[str, Callable[[dict], Work]] = {
    "fused, dense": lambda o: step(partial(jsplit.fused, **o), Dense, (784,), 100),
    "messages, dense": lambda o: step(
        partial(jsplit.messages, **o), Dense, (784,), 100
    ),
    "fused, cnn": lambda o: step(
        partial(jsplit.fused, **o), Convolutional, (16, 16, 3), 15
    ),
    "messages, cnn": lambda o: step(
        partial(jsplit.messages, **o), Convolutional, (16, 16, 3), 15
    ),
    "turns, 100 clients": lambda o: round_of("take_turns", o),
    "parallel own, 100 clients": lambda o: round_of("parallel", o),
    "splitfed, 100 clients": lambda o: round_of("splitfed", o),
}


def compare(name: str, blocks: int) -> dict:
    """Seconds of a workload under every policy, block by block in turns."""
    work = {policy: WORK[name](options) for policy, options in POLICIES.items()}
    for run in work.values():
        run(1)  # compiles
    found: dict[str, list[float]] = {policy: [] for policy in work}
    for number in range(blocks):
        # who goes first alternates: what follows finds the caches warmer
        for policy in list(work)[:: 1 if number % 2 else -1]:
            found[policy].append(work[policy](1))
    bare = found["bare"]
    ratios = {
        policy: statistics.median(b / a for a, b in zip(bare, times, strict=True))
        for policy, times in found.items()
    }
    return {"name": name, "bare": statistics.median(bare), "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--out", type=Path, default=Path("results/policies.json"))
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    rows = []
    for name in options.only:
        rows.append(compare(name, options.blocks))
        ratios = "  ".join(f"{p} {r:.3f}" for p, r in rows[-1]["ratios"].items())
        bare = f"{1e3 * rows[-1]['bare']:9.2f} ms"
        print(f"{name:28} {bare}  {ratios}", flush=True)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
