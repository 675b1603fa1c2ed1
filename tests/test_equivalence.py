"""The promise: training split equals training the whole model, through every interpreter.

The reference is plain Flax and Optax: one whole model, one jitted step, the same optimizer on each part.
"""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from helpers import CONFIGURATIONS, FLAX, MODELS, STAGES, WEIGHTS, Problem, cross_entropy, make_problem, some

STEPS = 20
INTERPRETERS = {"fused": jsplit.fused, "messages": jsplit.messages}
BACKWARD = ("residuals", "recompute")
RATES = (0.05, 0.1, 0.02, 0.2)  # every party has a rate of its own: mixing them up would show


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


def adam(rate):
    return optax.adam(rate / 10)


def optimizers(topology, make):
    return {party: make(rate) for party, rate in zip(topology.parties, RATES, strict=False)}


def reference(problem: Problem, make, batches=None):
    """Steps of the whole model in plain Flax and Optax, 20 on the problem's batch or those given; returns parameters,
    statistics and losses."""
    party_of, topology = STAGES[problem.configuration], problem.topology
    seed = jax.random.key(1)

    if isinstance(problem.whole, nnx.Module):
        graph, params, rngs, state = nnx.split(problem.whole, nnx.Param, nnx.RngState, ...)
        params, state = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
        shapes = nnx.split(problem.whole, nnx.Param, nnx.RngState, ...)[1:]

        def apply(params, state, key, fields):
            model = nnx.merge(graph, *shapes, copy=True)
            nnx.update(model, params)
            nnx.update(model, state)
            nnx.reseed(model, default=key)
            model.train()
            output = model(**fields)
            return output, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState))))
    else:
        params = problem.variables["params"]
        state = {k: v for k, v in problem.variables.items() if k != "params"}

        def apply(params, state, key, fields):
            variables, rngs = {"params": params, **state}, {"dropout": key}
            return problem.whole.apply(variables, **fields, train=True, rngs=rngs, mutable=list(state))

    def loss(params, state, key, batch):
        output, new = apply(params, state, key, {n: batch[n] for n in problem.fields})
        if problem.configuration != "multitask":
            return cross_entropy(output, batch["label"]).mean(), new
        return sum(w * cross_entropy(output[s], batch[f"label_{s}"]).mean() for s, w in WEIGHTS.items()), new

    owners = {name: jax.tree.map(lambda _, p=party_of[name]: p, tree) for name, tree in params.items()}
    optimizer = optax.partition(optimizers(topology, make), owners)

    @jax.jit
    def step(params, state, memory, number, batch):
        key = jax.random.fold_in(seed, number)
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, key, batch)
        updates, memory = optimizer.update(grads, memory, params)
        return optax.apply_updates(params, updates), state, memory, value

    memory, losses = optimizer.init(params), []
    for number, batch in enumerate([problem.batch] * STEPS if batches is None else batches):
        params, state, memory, value = step(params, state, memory, number, batch)
        losses.append(value)
    return params, state, jnp.stack(losses)


def split(problem: Problem, make, interpreter, backward, **options):
    """The same 20 steps, split."""
    optimizer = optimizers(problem.topology, make)
    trainer = INTERPRETERS[interpreter](problem.topology, optimizer, backward=backward, **options)
    state, losses = trainer.init(jax.random.key(1), problem.batch), []
    for _ in range(STEPS):
        state, info = trainer.step(state, problem.batch)
        losses.append(info.loss)
    trees = ([t for p in state.parties.values() for t in getattr(p, kind).values()] for kind in ("params", "state"))
    params, statistics = (jsplit.merge(*ts) for ts in trees)
    return params, statistics, jnp.stack(losses)


def difference(a, b) -> float:
    """The largest difference of any array, relative to the largest number in that array."""
    flat_a, flat_b = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (a, b))
    assert flat_a.keys() == flat_b.keys()
    return max(
        (float(np.abs(np.asarray(x) - flat_b[k]).max() / max(np.abs(flat_b[k]).max(), 1e-3)) for k, x in flat_a.items()),
        default=0.0,
    )


def compare(configuration, kind, flax, make, ways) -> dict:
    """How far 20 split steps are from 20 whole ones, for each interpreter and backward mode in `ways`."""
    problem = make_problem(configuration, kind, flax)
    whole = reference(problem, make)
    return {way: max(map(difference, split(problem, make, *way), whole)) for way in ways}


WAYS = list(product(INTERPRETERS, BACKWARD))
WHOLES = list(product(CONFIGURATIONS, MODELS, FLAX))


def ways_of(i: int) -> tuple[list, list]:
    """Which ways the always-run part takes for the i-th whole model, and which the slow part.

    Over the configurations, and over the models, the always-run part goes evenly through all ways."""
    first = WAYS[(i + i // 8 + i // 2) % len(WAYS)]
    return [first], [way for way in WAYS if way != first]


SWEEP = [(*whole, ways_of(i)[0]) for i, whole in enumerate(WHOLES)]
SWEEP += [pytest.param(*whole, ways_of(i)[1], marks=pytest.mark.slow) for i, whole in enumerate(WHOLES)]


@pytest.mark.parametrize(("configuration", "kind", "flax", "ways"), SWEEP)
def test_split_training_is_whole_training(configuration, kind, flax, ways):
    """20 steps of SGD with momentum in float32: parameters, statistics and losses within 1e-5."""
    found = compare(configuration, kind, flax, momentum, ways)
    assert found.keys() == set(ways) and max(found.values()) < 1e-5, found


DOUBLE = [
    (*whole, ways_of(i)[0]) if (i // 8 + i) % 8 == 2 else pytest.param(*whole, WAYS[::3], marks=pytest.mark.slow)
    for i, whole in enumerate(WHOLES)
]


@pytest.mark.parametrize(("configuration", "kind", "flax", "ways"), DOUBLE)
def test_split_training_is_whole_training_in_double_precision(configuration, kind, flax, ways):
    """In float64 the same within 1e-9, with Adam too."""
    with jax.enable_x64(True):
        for make in (momentum, adam):
            found = compare(configuration, kind, flax, make, ways)
            assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("configuration", some(CONFIGURATIONS, lambda i: i % 2))
def test_adam_in_float32_stays_as_close_as_measured(configuration):
    """Adam divides by the root of its second moment, so a rounding error in a gradient near zero can become a step.

    Where both programs round alike there is no difference at all; where not, 20 steps stayed within 1e-3."""
    assert max(compare(configuration, "residual", "nnx", adam, WAYS[1:3]).values()) < 1e-3


def test_the_comparison_sees_what_is_wrong():
    """Another key, one step fewer or exchanged optimizers are far outside the tolerance."""
    problem = make_problem("vanilla", "cnn", "nnx")
    whole = reference(problem, momentum)
    state = jsplit.fused(problem.topology, momentum(0.05)).init(jax.random.key(1), problem.batch)
    untrained = jsplit.merge(*(t for p in state.parties.values() for t in p.params.values()))
    assert difference(untrained, whole[0]) > 0.1
    exchanged = dict(zip(problem.topology.parties, map(momentum, RATES[1::-1]), strict=True))
    trainer = jsplit.fused(problem.topology, exchanged)
    for seed in (1, 2):
        state, losses = trainer.init(jax.random.key(seed), problem.batch), []
        for _ in range(STEPS):
            state, info = trainer.step(state, problem.batch)
            losses.append(info.loss)
        assert difference(jnp.stack(losses), whole[2]) > 1e-3
