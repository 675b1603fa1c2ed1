"""The contestants of demo.py, and the one loop that trains them: a network whole, and divided.

The whole network is Flax and Optax alone, with nothing of jsplit, so that the comparison has two
sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common import report
from experiments.common.data import Data
from experiments.common.models import Family, cross_entropy

EXCHANGED = (
    10  # steps that are trained a second time, party by party, each message recorded
)

Weights = dict[str, np.ndarray]


class Algorithm(NamedTuple):
    """What is compared, under one signature.

    Attributes:
        state: the first.
        step: `step(state, batch) -> (state, loss)`.
        predict: `predict(state, batch) -> {task: logits}`.
        weights: `weights(state)`, parameters and statistics by path.
    """

    state: Any
    step: Callable
    predict: Callable
    weights: Callable[[Any], tuple[Weights, Weights]]


class Run(NamedTuple):
    """A run as it is plotted: one entry for each epoch.

    Attributes:
        steps: how many there were by then.
        losses: the mean of the epoch.
        accuracies: on test records, by task.
        weights: by step, parameters and statistics; also after `EXCHANGED` steps.
    """

    steps: list[int]
    losses: list[float]
    accuracies: dict[str, list[float]]
    weights: dict[int, tuple[Weights, Weights]]


# The network whole: Flax and Optax, nothing of jsplit.


def whole(
    family: Family,
    tasks: Mapping[str, int],
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
) -> Algorithm:
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(state, batch):
        params, rest, memory, number, seed = state

        def objective(params):
            model = nnx.merge(graph, params, rest, copy=True)
            # The same key that jsplit gives the step, so that dropout draws the same masks.
            nnx.reseed(model, dropout=jax.random.fold_in(seed, number))
            model.train()
            logits = model(*[batch[name] for name in family.fields])
            loss = sum(
                cross_entropy(logits[f"{task}_logits"], batch[task]).mean()
                for task in tasks
            )
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, memory = optimizer.update(gradient, memory, params)
        params = optax.apply_updates(params, updates)
        return (params, rest, memory, number + 1, seed), loss

    @jax.jit
    def predict(state, batch):
        model = nnx.merge(graph, *state[:2], copy=True)
        model.eval()
        logits = model(*[batch[name] for name in family.fields])
        return {task: logits[f"{task}_logits"] for task in tasks}

    def weights(state):
        statistics = nnx.filter_state(state[1], nnx.BatchStat)
        return flat(nnx.to_pure_dict(state[0])), flat(nnx.to_pure_dict(statistics))

    # The seed is in the state: that of another seed needs no other program.
    first = (params, rest, optimizer.init(params), 0, jax.random.key(family.seed))
    return Algorithm(first, step, predict, weights)


# The network divided over parties.


def divided(
    trainer: jsplit.Trainer,
    parts: jsplit.Topology,
    family: Family,
    tasks: Mapping[str, int],
    batch: Mapping[str, np.ndarray],
) -> Algorithm:
    def predict(state, batch):
        logits = trainer.predict(state, {name: batch[name] for name in family.fields})
        return {task: logits[f"{task}_logits"] for task in tasks}

    def weights(state):
        # The segments of all parties, put together again, are the whole model by path.
        params, statistics = [], []
        for party in state.parties.values():
            params += party.params.values()
            statistics += party.state.values()
        return flat(jsplit.merge(*params)), flat(jsplit.merge(*statistics))

    def read(batch):
        return {name: batch[name] for name in parts.fields}

    def step(state, batch):
        return trainer.step(state, read(batch))

    first = trainer.init(jax.random.key(family.seed), read(batch))
    return Algorithm(first, step, predict, weights)


def flat(tree: Mapping) -> Weights:
    return {
        jax.tree_util.keystr(path): np.array(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def difference(found: Weights, expected: Weights) -> float:
    """The largest difference of any array, relative to the largest entry of that array."""
    if found.keys() != expected.keys():
        raise ValueError(
            f"the models differ in {sorted(found.keys() ^ expected.keys())}."
        )
    worst = 0.0
    for name, x in expected.items():
        # An array of zeros has no scale; its difference counts as it is.
        scale = np.abs(x).max() or 1.0
        worst = max(worst, float(np.abs(found[name] - x).max() / scale))
    return worst


# One run, the same loop for all.


def batches(data: Data, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end; which records they hold is a function of the seed and the epoch."""
    count = records_of(data)
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for start in range(0, count - size + 1, size):
            own = order[start : start + size]
            yield {name: x[own] for name, x in data.train.items()}
        epoch += 1


def records_of(data: Data) -> int:
    """How many records there are to train on."""
    return len(next(iter(data.train.values())))


def train(
    algorithm: Algorithm,
    data: Data,
    tasks: Mapping[str, int],
    options: argparse.Namespace,
    advance: report.Advance,
) -> Run:
    """Train, and look at the end of every epoch."""
    each = records_of(data) // options.batch
    total = options.steps or options.epochs * each
    run = Run([], [], {task: [] for task in tasks}, {})
    state, losses = algorithm.state, []
    drawn = batches(data, options.batch, options.seed)
    for number, batch in zip(range(1, total + 1), drawn, strict=False):
        state, info = algorithm.step(state, batch)
        # Kept on the device: to read each loss would wait for each step.
        losses.append(info.loss if isinstance(info, jsplit.Info) else info)
        if number == EXCHANGED:
            run.weights[number] = algorithm.weights(state)
        if number % each == 0 or number == total:
            logits = algorithm.predict(state, data.test)
            for task in tasks:
                right = np.argmax(logits[task], axis=-1) == data.test[task]
                run.accuracies[task].append(float(right.mean()))
            run.steps.append(number)
            run.losses.append(float(np.mean(jax.device_get(losses))))
            run.weights[number] = algorithm.weights(state)
            accuracy = next(iter(run.accuracies.values()))[-1]
            advance(len(losses), f"loss {run.losses[-1]:.4f}  accuracy {accuracy:.3f}")
            losses = []
    return run


def exchange(
    algorithm: Algorithm, data: Data, options: argparse.Namespace, count: int
) -> tuple[Weights, list[jsplit.Message]]:
    """Train the first `count` steps again, party by party.

    Returns:
        The parameters at the end, and what crossed in the last step.
    """
    state, sent = algorithm.state, []
    drawn = batches(data, options.batch, options.seed)
    for _, batch in zip(range(count), drawn, strict=False):
        state, info = algorithm.step(state, batch)
        sent = list(info.messages)
    return algorithm.weights(state)[0], sent


def seen(
    parts: jsplit.Topology,
    sent: Sequence[jsplit.Message],
    first: Mapping[str, np.ndarray],
) -> dict[str, dict[str, list[str]]]:
    """By party: its fields, what reached it, and what of that is proven to be a field."""
    views = jsplit.privacy.views(parts, {f: first[f] for f in parts.fields})
    found = {}
    for party in parts.parties:
        got: dict[str, list[str]] = {"activation": [], "cotangent": []}
        for m in sent:
            if m.receiver == party:
                got[m.kind].append(f"{m.name} of {m.sender}")
        found[party] = {
            "fields": list(parts.holds.get(party, ())),
            "activations": got["activation"],
            "cotangents": got["cotangent"],
            "proven": [f"{m.name} {g}" for m in views[party].receives for g in m.gives],
        }
    return found
