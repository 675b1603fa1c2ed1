"""How long is a step of two parties over a line that takes its time, beside what each computes?

`DelayedLink` is such a line, for other experiments too. The rest is the second question of
experiments/bench/wire.py: `part` is what both parties bring; `measure` runs
them as two processes, and measures what each would take alone, and the way between them.

    python experiments/network/delayed_link.py <folder of a run> <party>  # the party alone, seconds
"""

from __future__ import annotations

import json
import math
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

WIDTH, DEPTH, CUT = 512, 6, 256
OPTIMIZER = optax.sgd(0.01)
HERE = Path(__file__).resolve()
PARTIES = ("client", "server")


# A line that takes its time.


PIECE = 1 << 18  # bytes that are taken at once
PACED = 1 << 14  # the same where they are let through one after the other


def left_at(now: float, free: float, size: int, bits: float) -> float:
    """When the last of `size` bytes has left, seconds.

    Args:
        now: when they come.
        free: when all before them have left.
        size: how many.
        bits: that leave in a second.
    """
    return max(now, free) + 8 * size / bits


class DelayedLink:
    """A way to a port that takes so many seconds, and lets so many bits a second through.

    Args:
        port: where it leads.
        delay: seconds that a byte is on its way, in either direction.
        bits: a second in each direction; by default any number.

    Attributes:
        port: where it begins.
    """

    def __init__(self, port: int, delay: float, bits: float = math.inf):
        self.to, self.delay, self.bits = port, delay, bits
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            near, _ = self.server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                # Nobody listens yet; whoever dialled tries again.
                near.close()
                continue
            self.carry(near, far)
            self.carry(far, near)

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        # What is read waits in a list until its time has come. A thread that read, slept and wrote
        # would let through one piece in each delay.
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due: list[tuple[float, bytes]] = []
        changed = threading.Condition()
        for work, end in ((self.read, source), (self.write, target)):
            threading.Thread(target=work, args=(end, due, changed), daemon=True).start()

    def read(
        self, source: socket.socket, due: list, changed: threading.Condition
    ) -> None:
        data, free = b"x", 0.0
        piece = PIECE if self.bits == math.inf else PACED
        while data:
            try:
                data = source.recv(piece)
            except OSError:
                data = b""
            free = left_at(time.monotonic(), free, len(data), self.bits)
            # The end comes as no bytes, and takes as long as all that came before it.
            with changed:
                due.append((free + self.delay, data))
                changed.notify()

    def write(
        self, target: socket.socket, due: list, changed: threading.Condition
    ) -> None:
        while True:
            with changed:
                changed.wait_for(lambda: due)
                at, data = due.pop(0)
            time.sleep(max(at - time.monotonic(), 0))
            try:
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_RDWR)
                    return
            except OSError:
                return


# What is trained.


def half(widths: Sequence[int], name: str, reads: str) -> jsplit.Segment:
    """Dense layers with tanh, of `widths`."""

    def init(key, x):
        rng = np.random.default_rng(0)
        weights = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            drawn = rng.normal(size=(inputs, outputs)) / inputs**0.5
            weights.append(jnp.asarray(drawn, jnp.float32))
        return weights

    def apply(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    return jsplit.segment(apply, init=init, inputs=[reads], name=name)


def mean_square(y, label):
    return ((y - label) ** 2).mean(-1)


def problem(size: int) -> tuple[jsplit.Topology, dict[str, np.ndarray]]:
    """A client's half and a server's, and a batch of `size` records."""
    bottom = half([WIDTH] * DEPTH + [CUT], "smashed", "image")
    top = half([CUT] + [WIDTH] * DEPTH, "output", "smashed")
    topology = jsplit.vanilla(bottom, top, loss=mean_square)
    rng = np.random.default_rng(0)
    batch = {f: rng.normal(size=(size, WIDTH)) for f in ("image", "label")}
    return topology, {f: x.astype(np.float32) for f, x in batch.items()}


def on_a_core(party: str) -> None:
    """Give a party one core for all that it does, as if it had a machine, and not the other's."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[PARTIES.index(party) % len(cores)]})


def part(party: str) -> dict:
    """What a party brings to the agreement in its folder; `jsplit train` asks for it."""
    on_a_core(party)
    topology, batch = problem(jsplit.party.read("agreement.json")["batch"])
    own = {f: batch[f] for f in topology.holds[party]}
    return {"own": topology, "data": lambda step: own, "optimizer": OPTIMIZER}


# What each would take without the other.


def only(party: str, size: int) -> tuple[jsplit.Topology, dict[str, np.ndarray]]:
    """The problem with the least in place of the other half that still sends what is awaited."""
    _, batch = problem(size)
    if party == "client":
        # The cotangent of a square is one multiplication for each number that crosses.
        top = jsplit.segment(lambda h: h, inputs=["smashed"], name="output")
        bottom = half([WIDTH] * DEPTH + [CUT], "smashed", "image")
        topology = jsplit.vanilla(bottom, top, loss=lambda y, label: (y**2).mean(-1))
        return topology, batch
    # With a parameter, or nobody would ask the server for a cotangent.
    bottom = jsplit.segment(
        lambda scale, x: scale * x,
        init=lambda key, x: jnp.ones(()),
        inputs=["image"],
        name="smashed",
    )
    top = half([CUT] + [WIDTH] * DEPTH, "output", "smashed")
    topology = jsplit.vanilla(bottom, top, loss=mean_square)
    return topology, batch | {"image": batch["image"][:, :CUT]}


def alone(folder: Path, party: str, steps: int = 10) -> float:
    """The median step of one party that waits for nobody: what it computes, seconds."""
    on_a_core(party)
    agreed = jsplit.party.read(folder / "agreement.json")
    topology, batch = only(party, agreed.batch)
    trainer = jsplit.messages(topology, OPTIMIZER, microbatches=agreed.microbatches)
    state, times = trainer.init(0, batch), []
    for _ in range(steps):
        began = time.perf_counter()
        state, _ = trainer.step(state, batch)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - began)
    # The first steps compile, and fill caches.
    return statistics.median(times[3:])


def way_of(certs: Path, size: int, delay: float, trips: int = 10) -> float:
    """The median of a way there and back of so many bytes, when nobody computes, seconds."""
    command = [sys.executable, HERE.with_name("echo_servers.py"), "jsplit", certs]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    port = int(server.stdout.readline())
    trip, _, close = echo_jsplit(certs, delayed(port, delay))
    array, times = np.zeros(size, np.uint8), []
    for _ in range(trips):
        began = time.perf_counter()
        trip(array)
        times.append(time.perf_counter() - began)
    close()
    server.wait(30)
    return statistics.median(times[2:])


def delayed(port: int, delay: float) -> int:
    """The port by which another is reached with a delay, or at once."""
    return DelayedLink(port, delay).port if delay else port


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# Both together.


def prepare(
    folder: Path, size: int, micros: int, staleness: int, port: int, steps: int
) -> None:
    """The agreement and the certificates of a run, in its folder."""
    folder.mkdir()
    topology, batch = problem(size)
    agreed = jsplit.party.agreement(
        topology,
        batch,
        steps=steps,
        addresses={"server": f"127.0.0.1:{port}"},
        microbatches=micros,
        # No checkpoint within the run: with staleness each of them empties the pipeline.
        checkpoint=10 * steps,
        patience=120.0,
        staleness=staleness,
    )
    jsplit.party.write(folder / "agreement.json", agreed)
    jsplit.party.certs(folder / "certs", agreed.parties)


def run(folder: Path, address: str) -> list[dict]:
    """Both processes to their end; what the client has logged of every step."""
    processes = {}
    for party in PARTIES:
        command = [sys.executable, "-m", "jsplit.command", "train", "agreement.json"]
        command += [party, f"{HERE}:part", "--certs", "certs", "--log"]
        command += [f"{party}.jsonl", "--address", f"server={address}"]
        with open(folder / f"{party}.out", "w") as out:
            processes[party] = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=out, env=on_cpu()
            )
    for party, process in processes.items():
        if process.wait(240):
            said = (folder / f"{party}.out").read_text()
            raise RuntimeError(f"`{party}` ended with an error: {said[-1000:]}")
    lines = (folder / "client.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def on_cpu() -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu"}


def step_of(log: Sequence[dict], staleness: int) -> float:
    """The median step of a log, seconds."""
    # The first steps compile; at the end, fewer and fewer are under way.
    took = [line["seconds"] for line in log[3 : len(log) - staleness]]
    # Steps that are under way at once end in bursts, so each is a mean over as many.
    at_once = 1 + staleness
    means = []
    for i in range(len(took) - staleness):
        means.append(sum(took[i : i + at_once]) / at_once)
    return statistics.median(means)


def measure(
    folder: Path, size: int, micros: int, staleness: int, delay: float, steps: int
) -> dict:
    """The median step of two processes, what each takes alone, and the way between them.

    Args:
        folder: made for the run.
        size: records in a batch.
        micros: micro-batches in a step.
        staleness: updates that parameters may lack.
        delay: seconds each way.
        steps: of training.

    Returns:
        A row for the table; times in seconds.
    """
    port = free_port()
    prepare(folder, size, micros, staleness, port, steps)
    log = run(folder, f"127.0.0.1:{delayed(port, delay)}")
    seconds = step_of(log, staleness)
    compute = 0.0
    for party in PARTIES:
        command = [sys.executable, HERE, folder, party]
        said = subprocess.run(
            command, env=on_cpu(), stdout=subprocess.PIPE, check=True
        ).stdout
        compute = max(compute, float(said))
    wire = way_of(folder / "certs", 4 * size * CUT, delay)
    return {
        "batch": size,
        "micros": micros,
        "staleness": staleness,
        "delay": delay,
        "seconds": seconds,
        "compute": compute,
        "wire": wire,
        # Steps that are under way at once share the way.
        "of_best": max(compute, wire / (1 + staleness)) / seconds,
        "sent": log[3]["sent"],
    }


if __name__ == "__main__":
    print(alone(Path(sys.argv[1]), sys.argv[2]))
