"""Which learning rate, over several seeds, and does it depend on where the network is cut?

What a sweep looks like: seeds and rates of one network are an axis of the state, so they are one
program that is compiled once (`jax.vmap` over `init` and `step`); networks cut at different places
are different programs, each in a process of its own. A process gets numbers and names and builds
models, topology and trainer itself: these hold functions, which no process can hand to another.

The data are those of nuclei in fine needle aspirates that scikit-learn brings. Prints a table, and
writes its rows to `sweep.json`.

    python experiments/sweep/rates.py [--seeds 4] [--steps 200] [--processes 2] [--out results]
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

import jsplit
from experiments.common.data import load
from experiments.common.report import table, write_rows

CUTS = ("first", "second")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
BATCH = 32


class Net(linen.Module):
    """Three layers; a cut lies behind the first or the second."""

    # In linen and not nnx: its weights are drawn from the key of `init`, so each seed starts
    # elsewhere.
    @linen.compact
    def __call__(self, record):
        h = linen.relu(linen.Dense(16, name="first")(record))
        h = linen.relu(linen.Dense(16, name="second")(h))
        return linen.Dense(2, name="third")(h)


def records(part: str) -> dict[str, np.ndarray]:
    found = load("breast_cancer")._asdict()[part]
    record = np.concatenate([found["size"], found["shape"]], axis=1)
    return {"record": record, "label": found["malignant"]}


def trainer_of(cut: str, example: np.ndarray) -> jsplit.Trainer:
    parts = jsplit.split(Net(), example, cuts={"smashed": cut})
    loss = optax.softmax_cross_entropy_with_integer_labels
    # As a hyperparameter the rate is a part of the state, and no constant of the program.
    sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0, momentum=0.9)
    return jsplit.fused(jsplit.vanilla(*parts.values(), loss=loss), sgd)


def sweep(cut: str, seeds: int, steps: int) -> list[dict]:
    """All seeds and rates of one cut, in one program."""
    train, test = records("train"), records("test")
    trainer = trainer_of(cut, train["record"][:BATCH])

    runs = [(seed, rate) for seed in range(seeds) for rate in RATES]
    keys = jnp.stack([jax.random.key(seed) for seed, _ in runs])
    rates = jnp.array([rate for _, rate in runs])
    first = {name: x[:BATCH] for name, x in train.items()}
    states = jax.vmap(trainer.init, in_axes=(0, None))(keys, first)
    states = jsplit.set_hyperparams(states, {"learning_rate": rates})

    step = jax.jit(jax.vmap(trainer.step, in_axes=(0, None)), donate_argnums=0)
    order = np.random.default_rng(0)
    for _ in range(steps):
        read = order.choice(len(train["label"]), BATCH, replace=False)
        states, info = step(states, {name: x[read] for name, x in train.items()})

    predict = jax.vmap(trainer.predict, in_axes=(0, None))
    logits = predict(states, {"record": test["record"]})["output"]
    accuracy = (logits.argmax(-1) == test["label"]).mean(-1)
    return [
        {
            "cut": cut,
            "seed": seed,
            "rate": rate,
            "loss": float(info.loss[i]),
            "accuracy": float(accuracy[i]),
        }
        for i, (seed, rate) in enumerate(runs)
    ]


def show(rows: Sequence[dict]) -> None:
    cells = []
    for cut in CUTS:
        for rate in RATES:
            own = [r["accuracy"] for r in rows if (r["cut"], r["rate"]) == (cut, rate)]
            spread = f"{min(own):.3f} to {max(own):.3f}"
            cells.append([cut, str(rate), f"{np.mean(own):.3f}", spread])
    table("Accuracy on test records", ["cut", "rate", "mean", "over seeds"], cells)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)

    # `spawn` and not `fork`: a process that JAX has started threads in must not be forked.
    one = partial(sweep, seeds=options.seeds, steps=options.steps)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        rows = [row for found in pool.map(one, CUTS) for row in found]

    show(rows)
    write_rows(options.out / "sweep.json", rows)
    return rows


if __name__ == "__main__":
    main()
