"""Two parties as two processes, and a way between them that takes its time, for `bench_wire.py`.

`part` is what both bring; `steps_of` runs them and says how long a step took, and in what.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import jsplit

WIDTH, DEPTH, BATCH, CUT = 512, 6, 512, 256
HERE = Path(__file__).resolve()


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
    processes = {}
    for p in agreed.parties:
        command = [sys.executable, "-m", "jsplit.command", "train", "agreement.json", p, f"{HERE}:part", "--certs", "certs"]
        command += ["--log", f"{p}.jsonl", "--address", f"server={address}"]
        with open(folder / f"{p}.out", "w") as out:
            one_core = os.environ | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}
            processes[p] = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=one_core)
    for p, process in processes.items():
        if process.wait(240):
            raise RuntimeError(f"`{p}` ended with an error: {(folder / f'{p}.out').read_text()[-1000:]}")
    logs = {p: [json.loads(line) for line in (folder / f"{p}.jsonl").read_text().splitlines()][3:] for p in agreed.parties}
    median = {p: {k: statistics.median(x[k] for x in log) for k in ("seconds", "compute", "wire")} for p, log in logs.items()}
    compute = max(m["compute"] for m in median.values())
    wire, seconds = 2 * delay + max(m["wire"] for m in median.values()), median["client"]["seconds"]
    best = max(compute, wire)
    row = {"micros": micros, "delay": delay, "seconds": seconds, "compute": compute, "wire": wire, "of_best": best / seconds}
    return row | {"sent": logs["client"][0]["sent"]}
