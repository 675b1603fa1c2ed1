"""One run for a device that is lent for minutes: is it exact there, and what does a step take?

Four parts, each with a share of `--budget` seconds, which nothing exceeds: what is under way at
its end is cut off, and named in the file. After each row all rows so far are written as JSON.

1. `checks`: the network of the six configurations (BatchNorm, dropout), trained whole by plain
   Flax and Optax, by `jsplit.fused` and by `jsplit.messages`: the largest difference of a
   parameter, relative to its array, with matrix products in full float32.
2. `steps`: seconds a step of an MLP, a CNN, a transformer and a ResNet-50: whole, fused, and
   party by party; in turn, and medians.
3. `rounds`: a client-step of turns, parallel and SplitFed among 100 and 1,000 clients, beside the
   same model trained alone.
4. `figure3`: accuracy by pass of split learning, FedAvg and large-batch SGD with VGG-16 at one
   rate, for as long as is left; of `--data`, else of digits' images with the small CNN.

    python experiments/bench/gpu.py --data cifar10.npz          # at most eight minutes
    python experiments/bench/gpu.py --tiny --budget 120         # on a CPU, all parts, small
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.bench import rounds as bench_rounds
from experiments.bench.contestants import (
    BARE,
    MOMENTUM,
    RATE,
    SEED,
    Run,
    cross_entropy,
    repeat,
    timed,
    whole,
)
from experiments.bench.networks import CNN, MLP, Model
from experiments.bench.step import machine
from experiments.common import harness
from experiments.common.models import (
    CONFIGURATIONS,
    Family,
    Network,
    network,
    tasks_of,
    topology,
)
from experiments.common.vision import resnet
from experiments.paper import figure3, whole_and_split
from jsplit import population

BUDGET = 450  # seconds, below the eight minutes of a loan
# The part of the budget that is over when a part must stop; the last has what is left.
ENDS = {"checks": 0.25, "steps": 0.6, "rounds": 0.75, "figure3": 1.0}
CLOSE = 1e-4  # a difference of parameters that float32 explains

Row = dict[str, Any]


class Transformer(nnx.Module):
    """An encoder of records [time, width]: attention and two dense layers in each block.

    Args:
        width: of a token.
        blocks: how many there are; it is cut after the first.
    """

    def __init__(self, width: int, blocks: int, rngs: nnx.Rngs):
        self.blocks = nnx.List()
        for _ in range(blocks):
            attention = nnx.MultiHeadAttention(
                4, width, qkv_features=width, decode=False, rngs=rngs
            )
            norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
            up = nnx.Linear(width, 4 * width, rngs=rngs)
            down = nnx.Linear(4 * width, width, rngs=rngs)
            self.blocks.append(nnx.List([attention, norms, up, down]))
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, image):
        h = image
        for number, (attention, norms, up, down) in enumerate(self.blocks):
            h = h + attention(norms[0](h))
            h = h + down(nnx.gelu(up(norms[1](h))))
            if number == 0:
                h = jsplit.cut(h, "smashed")
        return self.out(h.mean(1))


class Timed(NamedTuple):
    """A network whose step is timed: how it is made, what it reads, and where it is cut."""

    net: Callable[[nnx.Rngs], nnx.Module]
    shape: tuple[int, ...]
    batch: int
    cuts: Mapping[str, str] | None = None


def networks(tiny: bool) -> dict[str, Timed]:
    def made(rngs: nnx.Rngs) -> nnx.Module:
        return resnet(18 if tiny else 50, rngs=rngs)

    side, batch = (32, 2) if tiny else (224, 64)
    width, blocks, length = (16, 2, 8) if tiny else (512, 8, 256)
    return {
        "mlp": Timed(MLP, (784,), 64),
        "cnn": Timed(CNN, (32, 32, 3), 4 if tiny else 256),
        "transformer": Timed(
            partial(Transformer, width, blocks), (length, width), 4 if tiny else 32
        ),
        f"resnet{18 if tiny else 50}": Timed(
            made, (side, side, 3), batch, {"smashed": "stage1"}
        ),
    }


# The parts: each gives its rows one by one.


def checks(options: argparse.Namespace) -> Iterator[Row]:
    """How far fused and party by party are from the whole model, by configuration."""
    fields, steps = {"blood": (12,), "scan": (8,)}, 3
    owners = {"blood": "lab", "scan": "clinic"}
    family = Family(fields, owners, "clinic", {"ill": 2, "stage": 3}, SEED, "float32")
    rng, optimizer = np.random.default_rng(SEED), optax.adam(1e-2)
    drawn = [
        {n: rng.normal(size=(32, *s)).astype("float32") for n, s in fields.items()}
        | {t: rng.integers(0, k, 32) for t, k in family.tasks.items()}
        for _ in range(steps)
    ]
    wholes: dict[int, tuple[Network, whole_and_split.Weights]] = {}

    def trained(one: whole_and_split.Algorithm) -> whole_and_split.Weights:
        state = one.state
        for batch in drawn:
            state, _ = one.step(state, batch)
        return one.weights(state)[0]

    for name in CONFIGURATIONS[: 2 if options.tiny else None]:
        tasks = tasks_of(family, name)
        if len(tasks) not in wholes:
            model = network(family, tasks)
            alone = whole_and_split.whole(family, tasks, model, optimizer)
            wholes[len(tasks)] = model, trained(alone)
        model, wanted = wholes[len(tasks)]
        parts = topology(family, name, model)
        for how in (jsplit.fused, jsplit.messages):
            one = whole_and_split.divided(
                how(parts, optimizer), parts, family, tasks, drawn[0]
            )
            found = whole_and_split.difference(trained(one), wanted)
            yield {
                "configuration": name,
                "how": how.__name__,
                "steps": steps,
                "difference": found,
                "close": found <= CLOSE,
            }


def split_run(how: Callable[..., jsplit.Trainer], one: Timed, batch: Mapping) -> Run:
    parts = jsplit.split(one.net(nnx.Rngs(SEED)), batch["image"], cuts=one.cuts)
    drawn = jsplit.vanilla(parts["smashed"], parts["output"], loss=cross_entropy)
    trainer = how(drawn, optax.sgd(RATE, MOMENTUM), **BARE)

    def step(state, batch):
        state, info = trainer.step(state, batch)
        return state, info.loss

    return repeat(step, trainer.init(SEED, batch), dict(batch))


def steps(options: argparse.Namespace) -> Iterator[Row]:
    """Milliseconds a step of each network, whole and divided."""
    blocks, each = (2, 1) if options.tiny else (7, 10)
    for name, one in networks(options.tiny).items():
        if options.networks and name not in options.networks:
            continue
        rng = np.random.default_rng(SEED)
        batch = {
            "image": jnp.asarray(rng.normal(size=(one.batch, *one.shape)), "float32"),
            "label": jnp.asarray(rng.integers(0, 10, one.batch), "int32"),
        }
        plain = Model(one.net, tuple, one.shape, one.batch)
        made: dict[str, Callable[[], Run]] = {"whole": partial(whole, plain, batch)}
        for how in (jsplit.fused, jsplit.messages):
            made[how.__name__] = partial(split_run, how, one, batch)
        runs, times = {}, {}
        for title, make in made.items():
            # Made one by one: who is cut off loses the one under way alone.
            runs[title], times[title] = make(), []
            start = time.perf_counter()
            runs[title](1)
            compiling = time.perf_counter() - start
            runs[title](each)
            yield {"network": name, "how": title, "first_step_s": compiling}
        for _ in range(blocks):
            for title, run in runs.items():
                times[title].append(timed(run, each))
        alone = times["whole"]
        for title, found in times.items():
            ratio = [a / b for a, b in zip(found, alone, strict=True)]
            yield {
                "network": name,
                "how": title,
                "batch": one.batch,
                "ms": 1e3 * statistics.median(found),
                "times_whole": statistics.median(ratio),
            }


def rounds(options: argparse.Namespace) -> Iterator[Row]:
    """Microseconds a client-step, by algorithm and number of clients."""
    asked = ("turns", "parallel, shared", "splitfed 1")
    for clients in (4,) if options.tiny else (100, 1000):
        for name in ("dense",) if options.tiny else ("dense", "cnn"):
            model = bench_rounds.MODELS[name]._replace(steps=clients)
            _, drawn = bench_rounds.data(model, clients)
            alone = bench_rounds.alone(model, drawn)
            alone()
            for title in asked:
                run = bench_rounds.algorithm(title, model, drawn)
                run()
                # One after the other, as the ratio of what is near in time.
                both = [
                    (timed(lambda _, r=run: r() or 0.0, 1), timed(_once(alone), 1))
                    for _ in range(3)
                ]
                count = int(drawn.steps.sum())
                yield {
                    "model": name,
                    "clients": clients,
                    "algorithm": title,
                    "us_per_client_step": 1e6
                    * statistics.median(a for a, _ in both)
                    / count,
                    "times_alone": statistics.median(a / b for a, b in both),
                }


def _once(run: Callable[[], None]) -> Run:
    return lambda _: run() or 0.0


def figure3_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Accuracy after each round of each method, which take their rounds in turn."""
    limit = 120 if options.tiny else None
    data = harness.records(str(options.data or "digits"), limit)
    name = "vgg16" if options.data and not options.tiny else "small"
    clients, batch, passes = (4, 16, 5) if options.tiny else (100, 16, 100)
    parts = harness.topology(name, data)
    people = population.iid(len(data.train["label"]), clients, SEED)
    cost = harness.cost_of(parts, data, batch)
    made = figure3.methods(parts, cost, people.sizes, figure3.chunk_of(name))
    train, states, done = harness.fields(data.train), {}, dict.fromkeys(made, 0)
    while min(done.values()) < passes:
        # Who has passed over the data least goes on.
        title = min(done, key=lambda t: done[t])
        method = made[title]
        drawn = people.round(
            train, done[title] // method.local, batch=batch, epochs=method.local
        )
        if title not in states:
            first = method.algorithm.init(SEED, drawn)
            states[title] = jsplit.set_hyperparams(first, {"learning_rate": 0.03})
        states[title], _ = method.algorithm.step(states[title], drawn)
        done[title] += method.local
        right = harness.correct(method.algorithm.predict, states[title], data.test)
        spent = method.cost(done[title] // method.local).mean
        yield {
            "network": name,
            "data": data.name,
            "clients": clients,
            "method": title,
            "passes": done[title],
            "accuracy": float(right.mean()),
            "client_flops": float(spent["flops"]),
            "client_bytes": float(spent["bytes"]),
        }


PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Row]]] = {
    "checks": checks,
    "steps": steps,
    "rounds": rounds,
    "figure3": figure3_rows,
}


class Report:
    """All rows so far, in a file that is always whole, and the clock that ends the run."""

    def __init__(self, out: Path, budget: float):
        self.out, self.budget, self.start = out, budget, time.perf_counter()
        self.lock, self.under_way = threading.Lock(), "starting"
        self.result: dict[str, Any] = {"budget_s": budget, "stopped": {}}
        out.parent.mkdir(parents=True, exist_ok=True)
        # Also in the middle of a compilation, which nothing else would end.
        self.clock = threading.Timer(budget, self.end)
        self.clock.daemon = True
        self.clock.start()

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def end(self) -> None:
        with self.lock:
            self.result["cut_off"] = self.under_way
            self._write()
            print(f"cut off after {self.seconds():.0f} s: {self.under_way}", flush=True)
            os._exit(0)

    def add(self, part: str, row: Row) -> None:
        with self.lock:
            self.result.setdefault(part, []).append(row | {"at_s": self.seconds()})
            self._write()
        said = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in row.items()
        )
        print(f"{self.seconds():6.1f} s  {part}: {said}", flush=True)

    def _write(self) -> None:
        self.result["seconds"] = self.seconds()
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(self.result, indent=1))
        part.replace(self.out)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--budget",
        type=float,
        default=BUDGET,
        help="seconds, start and compiling included",
    )
    add("--tiny", action="store_true", help="all parts, small, for a CPU")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS))
    add("--networks", nargs="+", metavar="NAME", help="whose steps are timed; all")
    add("--data", type=Path, help="an .npz file of images, for figure3")
    add("--out", type=Path, default=Path("results/bench_gpu.json"))
    options = parser.parse_args(argv)
    report = Report(options.out, options.budget)
    report.result["machine"], report.result["tiny"] = machine(), options.tiny
    for part in options.only:
        last = report.budget * (ENDS[part] if len(options.only) > 1 else 1)
        report.under_way = part
        precision = "highest" if part == "checks" else "default"
        with jax.default_matmul_precision(precision):
            for row in PARTS[part](options):
                report.add(part, row)
                if report.seconds() > last:
                    # The parts after it must come to their turn.
                    report.result["stopped"][part] = report.seconds()
                    break
    with report.lock:
        report.result["done"] = True
        report._write()
        report.clock.cancel()
    return report.result


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
