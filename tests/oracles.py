"""What a law is compared with: the whole model trained in plain Flax and Optax, and the
distance of two trees.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import jsplit
from tests.helpers import STAGES, WEIGHTS, Problem, cross_entropy

STEPS = 20


INTERPRETERS = {"fused": jsplit.fused, "messages": jsplit.messages}


RATES = (
    0.05,
    0.1,
    0.02,
    0.2,
)  # every party has a rate of its own: mixing them up would show


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


def adam(rate):
    return optax.adam(rate / 10)


def optimizers(topology, make):
    return {
        party: make(rate) for party, rate in zip(topology.parties, RATES, strict=False)
    }


def reference(problem: Problem, make, batches=None):
    """Steps of the whole model in plain Flax and Optax, 20 on the problem's batch or
    those given; returns parameters, statistics and losses.
    """
    party_of, topology = STAGES[problem.configuration], problem.topology
    seed = jax.random.key(1)

    if isinstance(problem.whole, nnx.Module):
        graph, params, rngs, state = nnx.split(
            problem.whole, nnx.Param, nnx.RngState, ...
        )
        params, state = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
        shapes = nnx.split(problem.whole, nnx.Param, nnx.RngState, ...)[1:]

        def apply_nnx(params, state, key, fields):
            model = nnx.merge(graph, *shapes, copy=True)
            nnx.update(model, params)
            nnx.update(model, state)
            nnx.reseed(model, default=key, policy="match_shape")
            model.train()
            output = model(**fields)
            return output, nnx.to_pure_dict(
                nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
            )

        apply = apply_nnx
    elif not isinstance(problem.whole, linen.Module):
        params, state = problem.variables["params"], {}

        def apply_function(params, state, key, fields):
            return problem.whole(params, **fields), state

        apply = apply_function
    else:
        params = problem.variables["params"]
        state = {k: v for k, v in problem.variables.items() if k != "params"}

        def apply_linen(params, state, key, fields):
            variables, rngs = {"params": params, **state}, {"dropout": key}
            return problem.whole.apply(
                variables, **fields, train=True, rngs=rngs, mutable=list(state)
            )

        apply = apply_linen

    def loss(params, state, key, batch):
        output, new = apply(params, state, key, {n: batch[n] for n in problem.fields})
        if problem.configuration != "multitask":
            return cross_entropy(output, batch["label"]).mean(), new
        return sum(
            w * cross_entropy(output[s], batch[f"label_{s}"]).mean()
            for s, w in WEIGHTS.items()
        ), new

    def owner(path, _):
        return party_of[path[0].key] if problem.trains(path) else "frozen"

    owners = jax.tree_util.tree_map_with_path(owner, params)
    still = {"frozen": optax.set_to_zero()}
    optimizer = optax.partition(optimizers(topology, make) | still, owners)

    @jax.jit
    def step(params, state, memory, number, batch):
        key = jax.random.fold_in(seed, number)
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(
            params, state, key, batch
        )
        updates, memory = optimizer.update(grads, memory, params)
        return optax.apply_updates(params, updates), state, memory, value

    memory, losses = optimizer.init(params), []
    for number, batch in enumerate(
        [problem.batch] * STEPS if batches is None else batches
    ):
        params, state, memory, value = step(params, state, memory, number, batch)
        losses.append(value)
    return params, state, jnp.stack(losses)


def difference(a, b) -> float:
    """The largest difference of any array, relative to the largest number in that array."""
    # In NumPy: JAX would compile a subtraction for every shape.
    flat_a, flat_b = (
        {k: np.asarray(x) for k, x in jax.tree_util.tree_leaves_with_path(t)}
        for t in (a, b)
    )
    assert flat_a.keys() == flat_b.keys()
    return max(
        (
            float(np.abs(x - flat_b[k]).max() / max(np.abs(flat_b[k]).max(), 1e-3))
            for k, x in flat_a.items()
        ),
        default=0.0,
    )
