"""What does the wire cost: a frame beside bare TLS, a step beside computing and waiting?

Question 1: how much slower is a frame through codec, pipes and gRPC with mutual TLS than the same
bytes through a socket with mutual TLS, and how much of that is gRPC's own? A bare gRPC stream of
the same bytes in the same chunks is the third contestant. Each against a process of its own on
this machine, in turns, medians. And how much goes one way, if nothing has to come back?

Question 2: how near does a step come to max(compute, wire), over loopback and through 20 ms each
way: in one piece, with several micro-batches under way, and with a bounded staleness? Both parties
are processes, each on a core of its own. Compute is what the busier one takes alone, when all that
it waits for is at hand; wire is the way there and back of what crosses, when nobody computes, of
which each of the steps under way has its share (with a staleness of s these are s + 1). Without
staleness the first activation of a step and its last cotangent are on their way while there is
little to compute, so two delays stay visible whatever overlaps: 80 % can be had where compute is
several times that.

    python experiments/bench/wire.py [--seconds 5] [--steps 30] [--out results]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

import jsplit
from experiments.common.report import write_rows
from experiments.network.delayed_link import measure
from experiments.network.echo_servers import ECHO, Trip

SIZES = (16_000, 1_000_000, 16_000_000)
BATCHES = (512, 2048)
SETTINGS = [  # seconds each way, micro-batches, staleness
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
ECHO_SERVERS = Path(__file__).resolve().parents[1] / "network" / "echo_servers.py"


# Question 1: the same bytes there and back, through three things.


def round_trips(folder: Path, seconds: float) -> list[dict]:
    """A row for each size: medians of a round trip, and the rate one way, of every contestant."""
    servers, trips, pushes, closes = [], {}, {}, []
    for kind, echo in ECHO.items():
        command = [sys.executable, ECHO_SERVERS, kind, folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        trips[kind], pushes[kind], close = echo(folder, int(server.stdout.readline()))
        servers.append(server)
        closes.append(close)
    rows = [trips_of_size(size, trips, pushes, seconds) for size in SIZES]
    for close, server in zip(closes, servers, strict=True):
        close()
        server.wait(30)
    return rows


def trips_of_size(
    size: int, trips: Mapping[str, Trip], pushes: Mapping[str, Trip], seconds: float
) -> dict:
    array = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    times: dict[str, list[float]] = {kind: [] for kind in trips}
    assert all(bytes(trip(array)) == array.tobytes() for trip in trips.values())
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times["tls"]) < 10:
        # In turns, so that what else runs on the machine disturbs all alike.
        for kind, trip in trips.items():
            began = time.perf_counter()
            trip(array)
            times[kind].append(time.perf_counter() - began)
    medians = {kind: statistics.median(t[2:]) for kind, t in times.items()}
    rates: dict[str, list[float]] = {kind: [] for kind in trips}
    for _ in range(5):
        for kind, trip in trips.items():
            rates[kind].append(one_way(trip, pushes[kind], array))
    return {
        "bytes": size,
        **medians,
        **{f"{kind}_rate": statistics.median(r) for kind, r in rates.items()},
        "grpc_ratio": medians["grpc"] / medians["tls"],
        "jsplit_ratio": medians["jsplit"] / medians["tls"],
    }


def one_way(trip: Trip, push: Trip, array: np.ndarray) -> float:
    """Bytes a second of some 64 MB that are sent without waiting."""
    count = min(max(64_000_000 // array.nbytes, 2), 400)
    began = time.perf_counter()
    for _ in range(count):
        push(array)
    # What was pushed is in buffers still. One byte comes back when all before it has arrived.
    trip(array[:1])
    return count * array.nbytes / (time.perf_counter() - began)


def show_trips(rows: Sequence[Mapping]) -> None:
    print(
        f"{'bytes':>10} {'TLS, ms':>9} {'gRPC, ms':>9} {'jsplit, ms':>10} "
        f"{'gRPC / TLS':>11} {'jsplit / TLS':>13}"
        f"   one way, MB/s: {'TLS':>6} {'gRPC':>6} {'jsplit':>6}"
    )
    for row in rows:
        rates = " ".join(f"{row[f'{kind}_rate'] / 1e6:6.0f}" for kind in ECHO)
        print(
            f"{row['bytes']:10} {1e3 * row['tls']:9.2f} {1e3 * row['grpc']:9.2f} "
            f"{1e3 * row['jsplit']:10.2f} {row['grpc_ratio']:11.2f} "
            f"{row['jsplit_ratio']:13.2f} {'':17}{rates}"
        )


# Question 2: steps of two parties.


def steps(folder: Path, count: int, batches: Sequence[int]) -> list[dict]:
    """A row for each batch size and setting, printed as it comes: each takes several seconds."""
    print(
        f"\n{'batch':>6} {'delay':>6} {'micro':>6} {'stale':>6} {'step, ms':>9} "
        f"{'compute':>8} {'wire':>6}   max(compute, wire) / step"
    )
    rows = []
    for size, (delay, micros, staleness) in product(batches, SETTINGS):
        name = f"{size}-{delay}-{micros}-{staleness}"
        row = measure(folder / name, size, micros, staleness, delay, count)
        print(
            f"{size:6} {1e3 * delay:6.0f} {micros:6} {staleness:6} "
            f"{1e3 * row['seconds']:9.1f} {1e3 * row['compute']:8.1f} "
            f"{1e3 * row['wire']:6.1f} {100 * row['of_best']:24.0f} %",
            flush=True,
        )
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size")
    parser.add_argument(
        "--steps", type=int, default=30, help="of two parties, for each row"
    )
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsplit.party.certs(folder / "certs", ["client", "server"])
        rows = round_trips(folder / "certs", options.seconds)
        show_trips(rows)
        rows += steps(folder, options.steps, options.batches)
    write_rows(options.out / "bench_wire.json", rows)
    return rows


if __name__ == "__main__":
    main()
