"""What the wire costs: round trips against bare TLS, and steps against computing and waiting.

Question 1: how much slower is a frame through codec, pipes and gRPC with mutual TLS than the same bytes through a socket with
mutual TLS, and how much of that is gRPC's own? A bare gRPC stream of the same bytes in the same chunks is the third contestant.
Each against a process of its own on this machine, in turns, medians.
Question 2: how near does a step come to max(compute, wire), over loopback and through 20 ms each way, with one micro-batch
and with several under way? Both parties are processes; compute is the busier one's, measured in the same run.

`python experiments/bench_wire.py` prints both tables and writes the rows to results/bench_wire.json.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from echoes import ECHO

SIZES = (16_000, 1_000_000, 16_000_000)
WIDTH, DEPTH, BATCH, CUT = 512, 6, 512, 256
HERE = Path(__file__).resolve()


# Question 1: the same bytes there and back, through three things.


def round_trips(folder: Path, seconds: float) -> list[dict]:
    servers, trips, closes = [], {}, []
    for kind, echo in ECHO.items():
        command = [sys.executable, HERE.parent / "echoes.py", kind, folder]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        trips[kind], close = echo(folder, int(servers[-1].stdout.readline()))  # type: ignore[union-attr]
        closes.append(close)
    rows = []
    for size in SIZES:
        array, times = np.random.default_rng(0).integers(0, 256, size, np.uint8), {kind: [] for kind in trips}
        assert all(bytes(trip(array)) == array.tobytes() for trip in trips.values())
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times["tls"]) < 10:
            for kind, trip in trips.items():  # in turns, so that what else runs here disturbs all
                began = time.perf_counter()
                trip(array)
                times[kind].append(time.perf_counter() - began)
        medians = {kind: statistics.median(t[2:]) for kind, t in times.items()}
        ratios = {f"{kind}_ratio": medians[kind] / medians["tls"] for kind in ("grpc", "jsplit")}
        rows.append({"bytes": size, **medians, **ratios})
    for close, server in zip(closes, servers, strict=True):
        close()
        server.wait(30)
    return rows


# Question 2: steps of two parties, near and far.


class Far:
    """A way to a port that takes so many seconds, and lets any number of bytes through."""

    def __init__(self, port: int, delay: float):
        self.to, self.delay = port, delay
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            near, _ = self.server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                due: list[tuple[float, bytes]] = []
                changed = threading.Condition()
                threading.Thread(target=self.read, args=(a, due, changed), daemon=True).start()
                threading.Thread(target=self.write, args=(b, due, changed), daemon=True).start()

    def read(self, a: socket.socket, due: list, changed: threading.Condition) -> None:
        data = b"x"
        while data:
            try:
                data = a.recv(1 << 18)
            except OSError:
                data = b""
            with changed:
                due.append((time.monotonic() + self.delay, data))
                changed.notify()

    def write(self, b: socket.socket, due: list, changed: threading.Condition) -> None:
        while True:
            with changed:
                changed.wait_for(lambda: due)
                at, data = due.pop(0)
            time.sleep(max(at - time.monotonic(), 0))
            try:
                b.sendall(data) if data else b.shutdown(socket.SHUT_RDWR)
            except OSError:
                return
            if not data:
                return


def half(widths: Sequence[int], name: str, reads: str) -> jsplit.Segment:
    def init(key, x):
        rng = np.random.default_rng(0)
        return [jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32) for s in zip(widths, widths[1:], strict=False)]

    def apply(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    return jsplit.segment(apply, init=init, inputs=[reads], name=name)


def problem() -> tuple[jsplit.Topology, dict[str, np.ndarray]]:
    bottom, top = half([WIDTH] * DEPTH + [CUT], "smashed", "image"), half([CUT] + [WIDTH] * DEPTH, "output", "smashed")
    topology = jsplit.vanilla(bottom, top, loss=lambda y, label: ((y - label) ** 2).mean(-1))
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(BATCH, WIDTH)), "label": rng.normal(size=(BATCH, WIDTH))}
    return topology, {f: x.astype(np.float32) for f, x in batch.items()}


def part(party: str) -> dict:
    topology, batch = problem()
    own = {f: batch[f] for f in topology.holds[party]}
    return {"own": topology, "data": lambda step: own, "optimizer": optax.sgd(0.01)}


def steps_of(folder: Path, micros: int, delay: float, steps: int) -> dict:
    """Median step, and the work of the busier party, of a run of two processes."""
    folder.mkdir()
    topology, batch = problem()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address = f"127.0.0.1:{Far(port, delay).port if delay else port}"
    agreed = jsplit.party.agreement(
        topology, batch, steps=steps, addresses={"server": f"127.0.0.1:{port}"}, microbatches=micros, checkpoint=10 * steps,
        patience=120.0,
    )  # fmt: skip
    jsplit.party.write(folder / "agreement.json", agreed)
    jsplit.party.certs(folder / "certs", agreed.parties)
    processes = []
    for p in agreed.parties:
        command = [sys.executable, "-m", "jsplit.command", "train", "agreement.json", p, f"{HERE}:part", "--certs", "certs"]
        command += ["--log", f"{p}.jsonl", "--address", f"server={address}"]
        with open(folder / f"{p}.out", "w") as out:
            one_core = os.environ | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
            processes.append(subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=one_core))
    for process in processes:
        if process.wait(240):
            raise RuntimeError(f"a party ended with an error; see {folder}")
    logs = {p: [json.loads(line) for line in (folder / f"{p}.jsonl").read_text().splitlines()][3:] for p in agreed.parties}
    median = {p: {k: statistics.median(x[k] for x in log) for k in ("seconds", "compute", "wire")} for p, log in logs.items()}
    compute = max(m["compute"] for m in median.values())
    wire, seconds = 2 * delay + max(m["wire"] for m in median.values()), median["client"]["seconds"]
    best = max(compute, wire)
    row = {"micros": micros, "delay": delay, "seconds": seconds, "compute": compute, "wire": wire, "of_best": best / seconds}
    return row | {"sent": logs["client"][0]["sent"]}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        jsplit.party.certs(Path(name) / "certs", ["client", "server"])
        print(f"{'bytes':>10} {'TLS, ms':>9} {'gRPC, ms':>9} {'jsplit, ms':>10} {'gRPC / TLS':>11} {'jsplit / TLS':>13}")
        for row in round_trips(Path(name) / "certs", options.seconds):
            times = f"{1e3 * row['tls']:9.2f} {1e3 * row['grpc']:9.2f} {1e3 * row['jsplit']:10.2f}"
            print(f"{row['bytes']:10} {times} {row['grpc_ratio']:11.2f} {row['jsplit_ratio']:13.2f}")
            rows.append(row)
        print(f"\n{'delay':>6} {'micro':>6} {'step, ms':>9} {'compute':>8} {'wire':>6} {'max(compute, wire) / step':>26}")
        for delay in (0.0, 0.02):
            for micros in (1, 4, 8):
                row = steps_of(Path(name) / f"{micros}-{delay}", micros, delay, options.steps)
                times = f"{1e3 * row['seconds']:9.1f} {1e3 * row['compute']:8.1f} {1e3 * row['wire']:6.1f}"
                print(f"{1e3 * delay:6.0f} {micros:6} {times} {100 * row['of_best']:24.0f} %")
                rows.append(row)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench_wire.json").write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
