"""Is this checkout as fast as another? The same small workloads in both, in one run.

A change to jsplit is measured before and after on one machine: one process for each tree and
workload trains in blocks, the trees take turns (before, after, after, before, ...), and the
medians are compared as a ratio. Only the public interface is used, so any two versions fit.

    git worktree add ../before COMMIT
    python experiments/bench/two_trees.py --before ../before/src [--rounds 15] [--only NAME ...]

Asked: no ratio above 1.03.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common.report import write_rows

HERE = Path(__file__).resolve()
BOUND = 1.03
CLIENTS = 100
Work = Callable[[int], float]


class Dense(nnx.Module):
    """A dense net in two halves, cut at `smashed`."""

    def __init__(self, rngs: nnx.Rngs):
        self.bottom = nnx.Linear(784, 128, rngs=rngs)
        self.top = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, image):
        return self.top(jsplit.cut(nnx.relu(self.bottom(image)), "smashed"))


class Convolutional(nnx.Module):
    """Two convolutions with BatchNorm and dropout, cut after the first."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), strides=2, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.top = nnx.Linear(8 * 8 * 8, 10, rngs=rngs)

    def __call__(self, image):
        h = jsplit.cut(nnx.relu(self.norm(self.first(image))), "smashed")
        h = self.drop(nnx.relu(self.second(h)))
        return self.top(h.reshape(len(h), -1))


def data(shape: tuple[int, ...], records: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(records, *shape)).astype("float32")
    return {"image": image, "label": rng.integers(0, 10, records)}


def topology(net: nnx.Module, batch: dict) -> jsplit.Topology:
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jsplit.vanilla(*jsplit.split(net, batch["image"]).values(), loss=loss)


def step(interpreter: Callable, kind: type, shape: tuple[int, ...], times: int) -> Work:
    """A training step on a batch of 64."""
    batch = data(shape, 64)
    made = topology(kind(nnx.Rngs(0)), batch)
    trainer = interpreter(made, optax.sgd(0.01, momentum=0.9))
    state = trainer.init(0, batch)

    def work(blocks: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(times * blocks):
            state, _ = trainer.step(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - began) / (times * blocks)

    return work


def round_of(algorithm: str, policy: Mapping = MappingProxyType({}), **options) -> Work:
    """A round of one hundred clients, four steps of 16 records each."""
    everything = data((784,), CLIENTS * 64)
    batch = {name: x[:16] for name, x in everything.items()}
    trainer = jsplit.fused(
        topology(Dense(nnx.Rngs(0)), batch), optax.sgd(0.01, momentum=0.9), **policy
    )
    many = getattr(jsplit.rounds, algorithm)(trainer, client="client", **options)
    people = jsplit.population.iid(len(everything["label"]), CLIENTS)
    everything = jax.tree.map(jax.numpy.asarray, everything)
    draws = [people.round(everything, number, batch=16) for number in range(4)]
    state = many.init(0, draws[0])

    def work(blocks: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for number in range(blocks):
            state, _ = many.step(state, draws[number % len(draws)])
        jax.block_until_ready(state)
        return (time.perf_counter() - began) / blocks

    return work


def round_trip(width: int, steps: int) -> Work:
    """A step of two parties over gRPC on this machine: its median, of a run of many."""
    from jsplit import party

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(64, width)).astype("float32"),
        "label": rng.integers(0, 10, 64),
    }
    bottom = jsplit.segment(
        lambda params, image: image * params,
        init=lambda key, image: jax.numpy.ones(width),
        inputs=["image"],
        name="smashed",
    )
    top = jsplit.segment(
        nnx.Linear(width, 10, rngs=nnx.Rngs(0)), inputs=["smashed"], name="output"
    )
    loss = optax.softmax_cross_entropy_with_integer_labels
    made = jsplit.vanilla(bottom, top, loss=loss)

    def work(blocks: int) -> float:
        port = free_port()
        agreed = party.agreement(
            made,
            batch,
            steps=steps * blocks,
            checkpoint=steps * blocks,
            addresses={"server": f"127.0.0.1:{port}"},
        )
        seconds: list[float] = []

        def one(name: str, fields: Sequence[str]) -> None:
            party.run(
                agreed,
                name,
                made,
                {f: batch[f] for f in fields},
                credentials=party.PlaintextWithoutIdentity(name),
                optimizer=optax.sgd(0.01),
                on_step=(lambda m: seconds.append(m.seconds))
                if name == "client"
                else None,
            )

        parties = [
            threading.Thread(target=one, args=given)
            for given in (("client", ["image"]), ("server", ["label"]))
        ]
        for thread in parties:
            thread.start()
        for thread in parties:
            thread.join()
        return statistics.median(seconds[len(seconds) // 4 :])  # the first ones compile

    return work


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


WORK: dict[str, Callable[[], Work]] = {
    "fused, dense": lambda: step(jsplit.fused, Dense, (784,), 150),
    "messages, dense": lambda: step(jsplit.messages, Dense, (784,), 150),
    "fused, cnn": lambda: step(jsplit.fused, Convolutional, (16, 16, 3), 20),
    "messages, cnn": lambda: step(jsplit.messages, Convolutional, (16, 16, 3), 20),
    "turns, 100 clients": lambda: round_of("take_turns"),
    "parallel own, 100 clients": lambda: round_of("parallel"),
    "parallel shared, 100 clients": lambda: round_of("parallel", bottoms="shared"),
    "splitfed, 100 clients": lambda: round_of("splitfed"),
    "round trip, 16 kB": lambda: round_trip(64, 150),
    "round trip, 1 MB": lambda: round_trip(4096, 60),
}


def serve(name: str) -> None:
    """In a process of one tree: a block of work for every line that comes in."""
    work = WORK[name]()
    work(1)  # compiles
    print("ready", flush=True)
    for line in sys.stdin:
        print(work(int(line)), flush=True)


def start(tree: Path, name: str) -> subprocess.Popen:
    path = os.pathsep.join([str(tree.resolve()), str(HERE.parents[2])])
    return subprocess.Popen(
        [sys.executable, HERE, "--work", name],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: subprocess.Popen) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("1\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(name: str, trees: dict[str, Path], rounds: int) -> dict:
    """Seconds of a workload in both trees, block by block in turns."""
    processes = {tree: start(path, name) for tree, path in trees.items()}
    found: dict[str, list[float]] = {tree: [] for tree in trees}
    try:
        for process in processes.values():
            assert process.stdout is not None
            line = process.stdout.readline()
            if line.strip() != "ready":
                raise RuntimeError(f"a process for {name!r} ended before it was ready.")
        for number in range(rounds):
            # who goes first alternates: the second of a pair finds the caches warmer
            for tree in list(trees)[:: 1 if number % 2 else -1]:
                found[tree].append(ask(processes[tree]))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    before, after = (statistics.median(found[tree]) for tree in trees)
    pairs = [b / a for a, b in zip(found["before"], found["after"], strict=True)]
    return {
        "name": name,
        "before": before,
        "after": after,
        "ratio": after / before,
        "median of ratios": statistics.median(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="the src folder of the other tree")
    parser.add_argument("--after", type=Path, default=HERE.parents[2] / "src")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--out", type=Path, default=Path("results/two_trees.json"))
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        serve(options.work)
        return
    if options.before is None:
        parser.error("--before must name the src folder of the other tree.")
    trees = {"before": options.before, "after": options.after}
    rows = []
    for name in options.only:
        row = compare(name, trees, options.rounds)
        rows.append(row)
        times = f"{1e3 * row['before']:9.3f} {1e3 * row['after']:9.3f} ms"
        mark = "  above the bound" if row["ratio"] > BOUND else ""
        ratios = f"{row['ratio']:.3f} ({row['median of ratios']:.3f})"
        print(f"{name:30} {times}  {ratios}{mark}", flush=True)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
