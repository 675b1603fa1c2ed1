"""What does a client's step cost among many clients, beside the same model trained alone?

A dense model and a CNN, cut once in the `vanilla` configuration, SGD with momentum, float32. One
data set is divided over 1, 10, 100 and 500 clients; a round passes over all of it once, so every
contestant takes the same number of steps of the same batch size, and only how they are arranged
differs. Contestants take turns, round by round (A B C A B C ...); a ratio is taken within each,
and the median is reported. Asked: at 100 clients at most 1.2 times the step of the model trained
alone.

Beside the algorithms of `jsplit.rounds`: `alone`, the whole model in plain Flax and Optax, one
jitted step called from Python on each batch; `python loop`, clients in turns written by hand as a
Python loop over the jitted step; and PyTorch, where it is installed, as split-learning codes
write it: the model alone, clients in turns with a state dict handed on, and SplitFed with a copy
for every client and averaged state dicts. `alone, large batch`, where asked for, is the model
alone on the batches of all clients as one, which is the same training as `parallel, shared`.

Memory: the peak of a process that trains one round, in processes of their own, less that with one
client.

    python experiments/bench/rounds.py [--models dense cnn] [--clients 1 10 100 500]
        [--rounds 5] [--only NAME ...] [--no-memory]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.bench import networks
from experiments.bench.contestants import (
    MOMENTUM,
    RATE,
    SEED,
    choose_threads,
    cross_entropy,
)
from experiments.bench.networks import torch
from experiments.bench.step import machine
from experiments.bench.torch_rounds import TorchRounds
from experiments.common.memory import Peak
from experiments.common.report import write_rows
from jsplit import population, rounds

BOUND, AT = 1.2, 100  # times the step of the model alone, at so many clients
LARGE = "alone, large batch"


class Model(NamedTuple):
    """A network in both frameworks, its input, the batch size, and the steps of a round, if there
    are fewer clients.
    """

    net: Callable[[nnx.Rngs], nnx.Module]
    torch: Callable[[], tuple]
    shape: tuple[int, ...]
    batch: int
    steps: int


def _model(name: str, batch: int, steps: int) -> Model:
    one = networks.MODELS[name]
    return Model(one.net, one.torch, one.shape, batch, steps)


MODELS = {
    "dense": _model("mlp", 64, 500),
    "cnn": _model("cnn", 16, 100),
    "resnet18": _model("resnet18", 16, 10),
    "ecg": _model("ecg", 16, 100),
    "volume": _model("volume", 4, 50),
}

ALGORITHMS: dict[str, Callable[..., Any]] = {
    "turns": partial(rounds.take_turns, client="client"),
    "turns, own bottoms": partial(rounds.take_turns, client="client", handoff="none"),
    "parallel, shared": partial(rounds.parallel, client="client", bottoms="shared"),
    "parallel, own": partial(rounds.parallel, client="client"),
    "splitfed 1": partial(rounds.splitfed, client="client", version=1),
    "splitfed 2": partial(rounds.splitfed, client="client", version=2),
    "splitfed 3": partial(rounds.splitfed, client="client", version=3),
}


def data(model: Model, clients: int) -> tuple[dict, Any]:
    """The data set, and the round that passes over it once."""
    rng, count = np.random.default_rng(SEED), model.batch * max(model.steps, clients)
    fields = {
        "image": jnp.asarray(rng.normal(size=(count, *model.shape)).astype(np.float32)),
        "label": jnp.asarray(rng.integers(0, 10, count).astype(np.int32)),
    }
    return fields, population.iid(count, clients, SEED).round(
        fields, 0, batch=model.batch
    )


def trainer_of(model: Model) -> jsplit.Trainer:
    parts = jsplit.split(
        model.net(nnx.Rngs(SEED)),
        jax.ShapeDtypeStruct((model.batch, *model.shape), jnp.float32),
    )
    topology = jsplit.vanilla(parts["smashed"], parts["output"], loss=cross_entropy)
    return jsplit.fused(topology, optax.sgd(RATE, MOMENTUM))


# The contestants: each a function that trains one round and waits for its end.

Run = Callable[[], None]


def algorithm(name: str, model: Model, drawn: Any) -> Run:
    made = ALGORITHMS[name](trainer_of(model))
    state = made.init(SEED, drawn)

    def run() -> None:
        nonlocal state
        state, _ = made.step(state, drawn)
        jax.block_until_ready(state)

    return run


def alone(
    model: Model, drawn: Any, *, large: bool = False, faster: bool = False
) -> Run:
    """Plain Flax and Optax: the whole model, one jitted step on records taken by index.

    With `large` a batch is that of all clients together, as they step in parallel; with `faster`
    convolutions are in the forms that jsplit gives its own.
    """
    graph, params, rest = nnx.split(model.net(nnx.Rngs(SEED)), nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    optimizer = optax.sgd(RATE, MOMENTUM)

    # The data lies on the device, and a batch is taken from it within the step, as the rounds of
    # jsplit do; else what is compared would be copying.
    def step(state, fields, reads):
        params, rest, memory = state
        batch = {n: x[reads] for n, x in fields.items()}

        def loss_of(params):
            net = nnx.merge(graph, params, rest)
            loss = cross_entropy(net(batch["image"]), batch["label"]).mean()
            return loss, nnx.to_pure_dict(nnx.split(net, nnx.Param, ...)[2])

        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), rest, memory), loss

    step = jsplit.faster_convolutions(step) if faster else step
    step = jax.jit(step, donate_argnums=0)
    state, batches = (params, rest, optimizer.init(params)), batches_of(drawn)
    if large:
        batches = [drawn.reads[:, s].reshape(-1) for s in range(drawn.reads.shape[1])]

    def run() -> None:
        nonlocal state
        for reads in batches:
            state, _ = step(state, drawn.fields, reads)
        jax.block_until_ready(state)

    return run


def batches_of(drawn: Any) -> list[np.ndarray]:
    return [
        drawn.reads[k, s]
        for k in range(len(drawn.client))
        for s in range(drawn.steps[k])
    ]


def python_loop(model: Model, drawn: Any) -> Run:
    """Clients in turns, as one writes it first: a Python loop over the jitted step of
    `jsplit.fused`.
    """
    trainer = trainer_of(model)
    # Compiled too: indexing outside of a jit would be a dispatch for each field.
    take = jax.jit(lambda fields, reads: {n: x[reads] for n, x in fields.items()})
    batches = batches_of(drawn)
    state = trainer.init(SEED, take(drawn.fields, batches[0]))

    def run() -> None:
        nonlocal state
        for reads in batches:
            state, _ = trainer.step(state, take(drawn.fields, reads))
        jax.block_until_ready(state)

    return run


def torch_run(model: Model, drawn: Any, how: str) -> Run:
    """PyTorch: the whole model "alone", clients in "turns", or "splitfed" with a copy for each."""
    return getattr(TorchRounds(model.torch, drawn), how)


def contestants(
    name: str, clients: int, only: Sequence[str] = ()
) -> tuple[dict[str, Run], int]:
    """All of them by name, or those asked for beside the model alone; and the steps of a round."""
    model = MODELS[name]
    _, drawn = data(model, clients)
    made: dict[str, Callable[[], Run]] = {
        "alone": lambda: alone(model, drawn),
        "alone, faster": lambda: alone(model, drawn, faster=True),
        "python loop": lambda: python_loop(model, drawn),
    }
    made |= {a: partial(algorithm, a, model, drawn) for a in ALGORITHMS}
    if torch is not None:
        for how in ("alone", "turns", "splitfed"):
            # Made when it is asked for: each has a model of its own.
            made[f"torch {how}"] = partial(torch_run, model, drawn, how)
    if LARGE in only:
        made[LARGE] = lambda: alone(model, drawn, large=True)
    bases = {base_of(n) for n in only}
    runs = {
        n: make() for n, make in made.items() if not only or n in only or n in bases
    }
    if "torch alone" in runs:
        choose_threads(lambda steps: runs["torch alone"]() or 0.0)
    return runs, int(drawn.steps.sum())


def base_of(contestant: str) -> str:
    """The model trained alone to which a contestant is compared."""
    return "torch alone" if contestant.startswith("torch") else "alone"


def measure(
    name: str, clients: int, count: int, only: Sequence[str] = ()
) -> list[dict]:
    """A row for every contestant: microseconds a client-step, and the ratio to the model alone."""
    runs, steps = contestants(name, clients, only)
    # The first round compiles.
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {n: [] for n in runs}
    names = list(runs)
    for number in range(count):
        # Each goes first in turn: whoever follows a large one finds cold caches.
        first = number % len(names)
        for n in names[first:] + names[:first]:
            start = time.perf_counter()
            runs[n]()
            times[n].append(1e6 * (time.perf_counter() - start) / steps)
    rows = []
    for n, values in times.items():
        base = times[base_of(n)]
        # Of ratios within a round, and not a ratio of medians: a machine that is slow for a while
        # is slow for both.
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        asked = BOUND if clients == AT and n in ALGORITHMS else None
        rows.append(
            {
                "model": name,
                "clients": clients,
                "contestant": n,
                "steps": steps,
                "us_per_step": statistics.median(values),
                "ratio": ratio,
                "bound": asked,
                "within": None if asked is None else ratio <= asked,
            }
        )
    return rows


def peak(name: str, clients: int, contestant: str) -> int:
    """Peak memory, in bytes, of this process when it has trained one round."""
    with Peak() as found:
        _, drawn = data(MODELS[name], clients)
        algorithm(contestant, MODELS[name], drawn)()
    return found.bytes


def memory(name: str, counts: Sequence[int], contestant: str) -> list[dict]:
    """Peak memory by number of clients, and how much more it is than with the first."""
    rows: list[dict] = []
    for clients in counts:
        command = [sys.executable, __file__, "--peak", name, str(clients), contestant]
        # A process of its own for each: a peak never falls.
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = int(done.stdout.split()[-1])
        more = found - rows[0]["peak"] if rows else 0
        rows.append(
            {
                "model": name,
                "clients": clients,
                "contestant": contestant,
                "peak": found,
                "more": more,
            }
        )
    return rows


def show(rows: Sequence[Mapping]) -> None:
    print(
        f"\n{rows[0]['model']}, {rows[0]['clients']} clients, {rows[0]['steps']} steps a round"
    )
    for row in rows:
        bound = ""
        if row["bound"] is not None:
            bound = f"  at most {row['bound']:g}: {'yes' if row['within'] else 'NO'}"
        print(
            f"  {row['contestant']:22}{row['us_per_step']:12.1f} us a step"
            f"{row['ratio']:8.2f} times alone{bound}"
        )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["dense", "cnn"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 10, 100, 500])
    parser.add_argument("--rounds", type=int, default=5, help="of each contestant")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="these contestants, and the model alone",
    )
    parser.add_argument("--no-memory", action="store_true", help="only times")
    parser.add_argument(
        "--peak",
        nargs=3,
        metavar=("MODEL", "CLIENTS", "ALGORITHM"),
        help="print the peak memory of one",
    )
    parser.add_argument("--out", type=Path, default=Path("results/bench_rounds.json"))
    options = parser.parse_args(argv)
    # A run of this script by itself, see `memory`.
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1]), options.peak[2]))
        return {}
    result: dict[str, Any] = {"machine": machine(), "times": [], "memory": []}
    for name in options.models:
        for clients in options.clients:
            # A round of the CNN takes minutes with many clients on a CPU.
            count = options.rounds if name == "dense" else min(3, options.rounds)
            rows = measure(name, clients, count, options.only)
            show(rows)
            result["times"] += rows
    peaks = () if options.no_memory else ("turns", "turns, own bottoms", "splitfed 1")
    for contestant in peaks:
        rows = memory(options.models[0], options.clients, contestant)
        result["memory"] += rows
        print(f"\npeak memory, {options.models[0]}, {contestant}:", end=" ")
        print(", ".join(f"{r['more'] / 1e6:+.0f} MB with {r['clients']}" for r in rows))
    write_rows(options.out, result)
    return result


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
