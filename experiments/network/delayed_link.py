"""Two parties as two processes, and a way between them that takes its time, for `bench_wire.py`.

`part` is what both bring; `steps_of` runs them, and measures what each would take alone, and the way between them.
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

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from experiments.network.echo_servers import echo_jsplit
from jsplit.party.compute.local import Local

WIDTH, DEPTH, CUT = 512, 6, 256
OPTIMIZER = optax.sgd(0.01)
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
                threading.Thread(
                    target=self.read, args=(a, due, changed), daemon=True
                ).start()
                threading.Thread(
                    target=self.write, args=(b, due, changed), daemon=True
                ).start()

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
        return [
            jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32)
            for s in zip(widths, widths[1:], strict=False)
        ]

    def apply(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    return jsplit.segment(apply, init=init, inputs=[reads], name=name)


def problem(size: int) -> tuple[jsplit.Topology, dict[str, np.ndarray]]:
    bottom, top = (
        half([WIDTH] * DEPTH + [CUT], "smashed", "image"),
        half([CUT] + [WIDTH] * DEPTH, "output", "smashed"),
    )
    topology = jsplit.vanilla(
        bottom, top, loss=lambda y, label: ((y - label) ** 2).mean(-1)
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(size, WIDTH)),
        "label": rng.normal(size=(size, WIDTH)),
    }
    return topology, {f: x.astype(np.float32) for f, x in batch.items()}


def on_a_core(party: str) -> None:
    """Each party has one core for all that it does, and not that of the other, as if it had a machine."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[("client", "server").index(party) % len(cores)]})


def part(party: str) -> dict:
    """What a party brings to the agreement in its folder."""
    on_a_core(party)
    topology, batch = problem(jsplit.party.read("agreement.json")["batch"])
    own = {f: batch[f] for f in topology.holds[party]}
    return {"own": topology, "data": lambda step: own, "optimizer": OPTIMIZER}


class Nobody:
    """In the place of the other party: takes what is sent, once it is computed, and has zeros at hand for what is awaited."""

    def __init__(self, local: Local):
        self.local, self.known = local, {}

    def send(self, wire: int, step: int, micro: int, arrays: Sequence) -> None:
        jax.block_until_ready(arrays)

    def there(self, wire: int, step: int, micro: int) -> bool:
        return True

    def wait(self, wanted: Sequence) -> None:
        raise AssertionError("all is there")

    def take(self, wire: int, step: int, micro: int) -> list[np.ndarray]:
        if wire not in self.known:
            like, _ = self.local.like(
                wire, self.local.agreed["batch"] // self.local.micros
            )
            self.known[wire] = [
                np.zeros(x.shape, x.dtype) for x in jax.tree.leaves(like)
            ]
        return self.known[wire]


def alone(folder: Path, party: str, steps: int = 10) -> float:
    """The median step of one party that waits for nobody: what it computes."""
    on_a_core(party)
    agreed = jsplit.party.read(folder / "agreement.json").replace(staleness=0)
    topology, batch = problem(agreed["batch"])
    local = Local(agreed, party, topology, OPTIMIZER)
    own, others, times = {f: batch[f] for f in topology.holds[party]}, Nobody(local), []
    state = local.init(own)
    for step in range(steps):
        began = time.perf_counter()
        state, _ = local.step(state, lambda step: own, step, others)
        jax.block_until_ready(state.params)
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


def wire_of(certs: Path, size: int, delay: float, trips: int = 10) -> float:
    """The median of a way there and back of so many bytes, when nobody computes."""
    server = subprocess.Popen(
        [sys.executable, HERE.with_name("echo_servers.py"), "jsplit", certs],
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(server.stdout.readline())  # type: ignore[union-attr]
    trip, _, close = echo_jsplit(certs, Far(port, delay).port if delay else port)
    array, times = np.zeros(size, np.uint8), []
    for _ in range(trips):
        began = time.perf_counter()
        trip(array)
        times.append(time.perf_counter() - began)
    close()
    server.wait(30)
    return statistics.median(times[2:])


def steps_of(
    folder: Path, size: int, micros: int, staleness: int, delay: float, steps: int
) -> dict:
    """The median step of two processes; and what each would take without the other, and what goes between them."""
    folder.mkdir()
    topology, batch = problem(size)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address = f"127.0.0.1:{Far(port, delay).port if delay else port}"
    agreed = jsplit.party.agreement(
        topology,
        batch,
        steps=steps,
        addresses={"server": f"127.0.0.1:{port}"},
        microbatches=micros,
        checkpoint=10 * steps,
        patience=120.0,
        staleness=staleness,
    )
    jsplit.party.write(folder / "agreement.json", agreed)
    jsplit.party.certs(folder / "certs", agreed.parties)
    processes = {}
    cpu = os.environ | {"JAX_PLATFORMS": "cpu"}
    for p in agreed.parties:
        command = [
            sys.executable,
            "-m",
            "jsplit.command",
            "train",
            "agreement.json",
            p,
            f"{HERE}:part",
            "--certs",
            "certs",
        ]
        command += ["--log", f"{p}.jsonl", "--address", f"server={address}"]
        with open(folder / f"{p}.out", "w") as out:
            processes[p] = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=out, env=cpu
            )
    for p, process in processes.items():
        if process.wait(240):
            raise RuntimeError(
                f"`{p}` ended with an error: {(folder / f'{p}.out').read_text()[-1000:]}"
            )
    log = [
        json.loads(line) for line in (folder / "client.jsonl").read_text().splitlines()
    ]
    took = [x["seconds"] for x in log[3 : len(log) - staleness]]
    together = 1 + staleness  # steps under way at once come in bursts
    seconds = statistics.median(
        sum(took[i : i + together]) / together for i in range(len(took) - staleness)
    )
    compute = 0.0
    for p in agreed.parties:
        command = [sys.executable, HERE, folder, p]
        compute = max(
            compute,
            float(
                subprocess.run(
                    command, env=cpu, stdout=subprocess.PIPE, check=True
                ).stdout
            ),
        )
    wire = wire_of(folder / "certs", 4 * size * CUT, delay)
    row = {
        "batch": size,
        "micros": micros,
        "staleness": staleness,
        "delay": delay,
        "seconds": seconds,
        "compute": compute,
    }
    best = max(compute, wire / together)
    return row | {"wire": wire, "of_best": best / seconds, "sent": log[3]["sent"]}


if __name__ == "__main__":
    print(alone(Path(sys.argv[1]), sys.argv[2]))
