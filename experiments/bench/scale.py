"""Does a client's step cost more among 10,000 clients than among 100, in time or in memory?

The setting is that of pfl-research for CIFAR-10 (Granqvist et al., `pfl-research: simulation
framework for accelerating research in private federated learning
<https://arxiv.org/abs/2404.06430>`_, 2024): clients of 50 records each, 50 of them in a round,
batches of 10, so 250 client-steps a round; with 100, 1,000 and 10,000 clients. `cnn` has two
convolutions and two dense layers (1.6 million parameters, cut after the pooling); `dense` is a
small network on the same images, whose steps are so short that whatever grows shows.

The records are read by rows: of a file by `--data` (`x_train`, `y_train`), or noise of the same
shapes, repeated until there are enough; with `--mapped FOLDER` they are written there once, and
read from memory-mapped files. What `splitfed 3` and `turns, own bottoms` keep for each client
lies on the host (`jsplit.rounds.on_host`).

Time: a round is drawn and trained with each number of clients in turn (A B C A B C ...), the
ratio to the smallest is taken within each, and medians are told. Asked: at most 1.3. Memory: the
peak of what a process of its own holds while it trains `--rounds` rounds, less that with the
fewest clients; pages of mapped files do not count.

    python experiments/bench/scale.py [--models cnn dense] [--clients 100 1000 10000]
        [--rounds 5] [--only NAME ...] [--data cifar10.npz] [--mapped FOLDER] [--no-memory]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.bench.contestants import RATE, SEED, cross_entropy
from experiments.bench.step import machine
from experiments.common.memory import Peak
from experiments.common.report import write_rows
from jsplit import population, rounds

EACH, COHORT, BATCH = 50, 50, 10
BOUND = 1.3  # times a client-step with the fewest clients
SHAPE, CLASSES, DISTINCT = (32, 32, 3), 10, 5000


class CNN(nnx.Module):
    """conv32-conv64-pool | dense128-10, 3x3 without padding."""

    def __init__(self, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, kernel_size=(3, 3), padding="VALID", rngs=rngs)
        self.one, self.two = conv(3, 32), conv(32, 64)
        self.dense = nnx.Linear(14 * 14 * 64, 128, rngs=rngs)
        self.out = nnx.Linear(128, CLASSES, rngs=rngs)

    def __call__(self, image):
        h = nnx.relu(self.one(image.astype("float32") / 255))
        h = nnx.max_pool(nnx.relu(self.two(h)), (2, 2), (2, 2))
        h = jsplit.cut(h.reshape(h.shape[0], -1), "smashed")
        return self.out(nnx.relu(self.dense(h)))


class Dense(nnx.Module):
    """dense16 | 10."""

    def __init__(self, rngs: nnx.Rngs):
        self.low = nnx.Linear(int(np.prod(SHAPE)), 16, rngs=rngs)
        self.out = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, image):
        h = image.reshape(image.shape[0], -1).astype("float32") / 255
        return self.out(jsplit.cut(nnx.relu(self.low(h)), "smashed"))


MODELS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {"cnn": CNN, "dense": Dense}

ALGORITHMS: dict[str, Callable[[jsplit.Trainer], rounds.Algorithm]] = {
    "fedavg": rounds.fedavg,
    "splitfed 1": partial(rounds.splitfed, client="client", version=1),
    "turns": partial(rounds.take_turns, client="client"),
    "splitfed 3": lambda trainer: rounds.on_host(
        rounds.splitfed(trainer, client="client", version=3)
    ),
    "turns, own bottoms": lambda trainer: rounds.on_host(
        rounds.take_turns(trainer, client="client", handoff="none")
    ),
}


class Repeated:
    """So many records, of which the first come again and again: an array that is read by rows."""

    def __init__(self, base: np.ndarray, count: int):
        self.base, self.shape, self.dtype = base, (count, *base.shape[1:]), base.dtype

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.base[rows % len(self.base)]


def base(path: Path | None) -> dict[str, np.ndarray]:
    """Records to repeat: of a file, or noise."""
    if path is not None:
        with np.load(path) as file:
            label = file["y_train"].astype(np.int32).reshape(-1)
            return {"image": file["x_train"], "label": label}
    rng = np.random.default_rng(SEED)
    image = rng.integers(0, 256, (DISTINCT, *SHAPE), np.uint8)
    return {"image": image, "label": rng.integers(0, CLASSES, DISTINCT).astype("int32")}


def fields_of(clients: int, options: argparse.Namespace) -> dict[str, Any]:
    """The records of so many clients, to be read by rows."""
    count, first = clients * EACH, base(options.data)
    whole = {name: Repeated(x, count) for name, x in first.items()}
    if options.mapped is None:
        return {name: population.stored(x) for name, x in whole.items()}
    options.mapped.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, x in whole.items():
        path = options.mapped / f"{name}-{count}.npy"
        if not path.exists():
            # Under its name only when it is whole.
            part = path.with_suffix(".part")
            file = np.lib.format.open_memmap(part, "w+", x.dtype, x.shape)
            for start in range(0, count, 10_000):
                rows = np.arange(start, min(start + 10_000, count))
                file[rows[0] : rows[-1] + 1] = x[rows]
            file.flush()
            part.rename(path)
        found[name] = np.load(path, mmap_mode="r")
    return found


Run = Callable[[int], int]
"""Draws and trains the round of a number, and tells how many client-steps it took."""


def contestant(model: str, name: str, clients: int, options: argparse.Namespace) -> Run:
    fields = fields_of(clients, options)
    people = population.iid(clients * EACH, clients, SEED)
    example = jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.uint8)
    parts = jsplit.split(MODELS[model](nnx.Rngs(SEED)), example)
    topology = jsplit.vanilla(parts["smashed"], parts["output"], loss=cross_entropy)
    algorithm = ALGORITHMS[name](jsplit.fused(topology, optax.sgd(RATE)))
    draw = partial(people.round, fields, batch=BATCH, clients=COHORT)
    state = algorithm.init(SEED, draw(0))

    def run(number: int) -> int:
        nonlocal state
        drawn = draw(number)
        state, info = algorithm.step(state, drawn)
        jax.block_until_ready(info)
        return int(drawn.steps.sum())

    return run


def measure(model: str, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of clients: milliseconds a client-step, and the ratio."""
    runs = {n: contestant(model, name, n, options) for n in options.clients}
    for run in runs.values():
        # Two: the second finds what the first has compiled, and its arrays where they stay.
        for number in range(2):
            run(number)
    times: dict[int, list[float]] = {n: [] for n in runs}
    names = list(runs)
    for number in range(2, 2 + options.rounds):
        first = number % len(names)
        for n in names[first:] + names[:first]:
            start = time.perf_counter()
            steps = runs[n](number)
            times[n].append(1e3 * (time.perf_counter() - start) / steps)
    rows = []
    fewest = times[names[0]]
    for n, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, fewest, strict=True))
        within = None if n == names[0] else ratio <= BOUND
        rows.append(
            {
                "model": model,
                "algorithm": name,
                "clients": n,
                "ms_per_client_step": statistics.median(values),
                "ratio": ratio,
                "bound": BOUND,
                "within": within,
            }
        )
    return rows


def memory(model: str, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory by number of clients, each of a process of its own: a peak never falls."""
    rows: list[dict[str, Any]] = []
    for clients in options.clients:
        command = [sys.executable, __file__, "--peak", model, name, str(clients)]
        command += ["--rounds", str(options.rounds)]
        for what in ("data", "mapped"):
            if (path := getattr(options, what)) is not None:
                command += [f"--{what}", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = int(done.stdout.split()[-1])
        more = found - rows[0]["peak"] if rows else 0
        row = {"model": model, "algorithm": name, "clients": clients}
        rows.append({**row, "peak": found, "more": more})
    return rows


def show(times: Sequence[dict], peaks: Sequence[dict]) -> None:
    first = times[0]
    print(f"\n{first['model']}, {first['algorithm']}")
    for k, row in enumerate(times):
        said = f"  {row['clients']:7,} clients{row['ms_per_client_step']:10.3f} ms a client-step"
        if row["within"] is not None:
            verdict = "yes" if row["within"] else "NO"
            said += f"{row['ratio']:8.2f} times  at most {BOUND:g}: {verdict}"
        if peaks:
            said += (
                f"  {peaks[k]['peak'] / 1e6:6.0f} MB ({peaks[k]['more'] / 1e6:+.0f})"
            )
        print(said, flush=True)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--clients", nargs="+", type=int, default=[100, 1000, 10_000])
    add("--rounds", type=int, default=5, help="of each number of clients")
    add("--only", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    add("--data", type=Path, help="an .npz file with x_train and y_train")
    add("--mapped", type=Path, help="a folder for memory-mapped files")
    add("--no-memory", action="store_true", help="only times")
    add("--peak", nargs=3, metavar=("MODEL", "ALGORITHM", "CLIENTS"), help="of one")
    add("--out", type=Path, default=Path("results/bench_scale.json"))
    options = parser.parse_args(argv)
    # A run of this script by itself, see `memory`.
    if options.peak:
        model, name, clients = options.peak
        with Peak() as peak:
            run = contestant(model, name, int(clients), options)
            for number in range(options.rounds):
                run(number)
        print(peak.bytes)
        return {}
    result: dict[str, Any] = {"machine": machine(), "times": [], "memory": []}
    for model in options.models:
        for name in options.only:
            times = measure(model, name, options)
            peaks = [] if options.no_memory else memory(model, name, options)
            show(times, peaks)
            result["times"] += times
            result["memory"] += peaks
            # After each: a run that is cut off has what it measured.
            write_rows(options.out, result)
    return result


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
