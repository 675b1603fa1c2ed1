"""What the wire costs: round trips against bare TLS, and steps against computing and waiting.

Question 1: how much slower is a frame through codec, pipes and gRPC with mutual TLS than the same
bytes through a socket with mutual TLS, and how much of that is gRPC's own? A bare gRPC stream of
the same bytes in the same chunks is the third contestant. Each against a process of its own on
this machine, in turns, medians. And how much goes one way, if nothing has to come back? Question
2: how near does a step come to max(compute, wire), over loopback and through 20 ms each way: in
one piece, with several micro-batches under way, and with a bounded staleness? Both parties are
processes, each on a core of its own. Compute is what the busier one takes alone, when all that it
waits for is at hand; wire is the way there and back of what crosses, when nobody computes, of
which each of the steps under way has its share (with a staleness of s these are s + 1). Without
staleness the first activation of a step and its last cotangent are on their way while there is
little to compute, so two delays stay visible whatever overlaps: 80 % can be had where compute is
several times that.

`python experiments/bench/wire.py` prints both tables and writes the rows to
results/bench_wire.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

import jsplit
from experiments.network.delayed_link import steps_of
from experiments.network.echo_servers import ECHO, Trip

SIZES = (16_000, 1_000_000, 16_000_000)
BATCHES = (512, 2048)
WAYS = [
    (0.0, 1, 0),
    (0.0, 4, 0),
    (0.0, 8, 0),
    (0.0, 1, 1),
    (0.02, 1, 0),
    (0.02, 4, 0),
    (0.02, 8, 0),
    (0.02, 1, 1),
    (0.02, 1, 2),
    (0.02, 1, 4),
]
"""Seconds each way, micro-batches, staleness."""
HERE = Path(__file__).resolve()


# Question 1: the same bytes there and back, through three things.


def round_trips(folder: Path, seconds: float) -> list[dict]:
    servers, trips, pushes, closes = [], {}, {}, []
    for kind, echo in ECHO.items():
        command = [
            sys.executable,
            HERE.parents[1] / "network" / "echo_servers.py",
            kind,
            folder,
        ]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        trips[kind], pushes[kind], close = echo(
            folder, int(servers[-1].stdout.readline())
        )  # type: ignore[union-attr]
        closes.append(close)
    rows = []
    for size in SIZES:
        array, times = (
            np.random.default_rng(0).integers(0, 256, size, np.uint8),
            {kind: [] for kind in trips},
        )
        assert all(bytes(trip(array)) == array.tobytes() for trip in trips.values())
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times["tls"]) < 10:
            for (
                kind,
                trip,
            ) in trips.items():  # in turns, so that what else runs here disturbs all
                began = time.perf_counter()
                trip(array)
                times[kind].append(time.perf_counter() - began)
        medians = {kind: statistics.median(t[2:]) for kind, t in times.items()}
        rates: dict[str, list[float]] = {kind: [] for kind in trips}
        for _ in range(5):
            for kind, trip in trips.items():
                rates[kind].append(one_way(trip, pushes[kind], array))
        medians |= {f"{kind}_rate": statistics.median(r) for kind, r in rates.items()}
        ratios = {
            f"{kind}_ratio": medians[kind] / medians["tls"]
            for kind in ("grpc", "jsplit")
        }
        rows.append({"bytes": size, **medians, **ratios})
    for close, server in zip(closes, servers, strict=True):
        close()
        server.wait(30)
    return rows


def one_way(trip: Trip, push: Trip, array: np.ndarray) -> float:
    """Bytes a second of some 64 MB that are sent without waiting; one byte comes back when all
    have arrived.
    """
    count = min(max(64_000_000 // array.nbytes, 2), 400)
    began = time.perf_counter()
    for _ in range(count):
        push(array)
    trip(array[:1])
    return count * array.nbytes / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size")
    parser.add_argument(
        "--steps", type=int, default=30, help="of two parties, for each row"
    )
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        jsplit.party.certs(Path(name) / "certs", ["client", "server"])
        names = f"{'bytes':>10} {'TLS, ms':>9} {'gRPC, ms':>9} {'jsplit, ms':>10} {'gRPC / TLS':>11} {'jsplit / TLS':>13}"
        print(f"{names}   one way, MB/s: {'TLS':>6} {'gRPC':>6} {'jsplit':>6}")
        for row in round_trips(Path(name) / "certs", options.seconds):
            times = f"{1e3 * row['tls']:9.2f} {1e3 * row['grpc']:9.2f} {1e3 * row['jsplit']:10.2f}"
            rates = " ".join(f"{row[f'{kind}_rate'] / 1e6:6.0f}" for kind in ECHO)
            print(
                f"{row['bytes']:10} {times} {row['grpc_ratio']:11.2f} {row['jsplit_ratio']:13.2f} {'':17}{rates}"
            )
            rows.append(row)
        names = f"{'batch':>6} {'delay':>6} {'micro':>6} {'stale':>6} {'step, ms':>9} {'compute':>8} {'wire':>6}"
        print(f"\n{names}   max(compute, wire) / step")
        for size, (delay, micros, staleness) in product(BATCHES, WAYS):
            folder = Path(name) / f"{size}-{delay}-{micros}-{staleness}"
            row = steps_of(folder, size, micros, staleness, delay, options.steps)
            times = f"{1e3 * row['seconds']:9.1f} {1e3 * row['compute']:8.1f} {1e3 * row['wire']:6.1f}"
            print(
                f"{size:6} {1e3 * delay:6.0f} {micros:6} {staleness:6} {times} {100 * row['of_best']:24.0f} %",
                flush=True,
            )
            rows.append(row)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench_wire.json").write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
