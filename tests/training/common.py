"""What the tests of training share: a run of some steps, and by hand, the smallest topologies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.helpers import cross_entropy

INTERPRETERS = {"fused": jsplit.fused, "messages": jsplit.messages}
both = pytest.mark.parametrize("interpreter", INTERPRETERS)


def close(a, b, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(np.asarray(x) - np.asarray(y)).max() <= tolerance * max(
            1.0, np.abs(np.asarray(y)).max()
        )


def train(trainer, batch, steps=3, key=0):
    state, infos = trainer.init(jax.random.key(key), batch), []
    for _ in range(steps):
        state, info = trainer.step(state, batch)
        infos.append(info)
    return state, infos


NORM = 0.3


def clipped(clip, rate=0.2):
    return optax.chain(clip, optax.sgd(rate, momentum=0.9))


def reference(problem, optimizer, steps):
    """Steps of the whole model, with one optimizer over all its parameters."""
    # No dropout in the mlp, so no key.
    params = {"params": problem.variables["params"]}
    rest = {n: x for n, x in problem.variables.items() if n != "params"}

    def loss(params):
        output, _ = problem.whole.apply(
            {**params, **rest}, **problem.fields, train=True, mutable=["batch_stats"]
        )
        if problem.configuration != "multitask":
            return cross_entropy(output, problem.batch["label"]).mean()
        return sum(
            w * cross_entropy(output[s], problem.batch[f"label_{s}"]).mean()
            for s, w in {"server0": 1.0, "server1": 0.5}.items()
        )

    # One program: op by op, each shape of each operation is compiled for itself.
    @jax.jit
    def step(params, memory):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, memory = optimizer.update(gradient, memory, params, value=value)
        norm = optax.tree.norm(gradient)
        return optax.apply_updates(params, updates), memory, value, norm

    memory, losses, norms = optimizer.init(params), [], []
    for _ in range(steps):
        params, memory, value, norm = step(params, memory)
        losses.append(value)
        norms.append(norm)
    # The first steps are clipped and the law would be of nothing otherwise.
    return params["params"], jnp.stack(losses), norms


def learned(state):
    return {party: (p.params, p.state) for party, p in state.parties.items()}


def dense(inputs=("h",), name=None):
    """`h @ w`, or of several inputs the sum of them, with weights of 0.1."""
    return jsplit.segment(
        lambda w, *h: sum(h) @ w,
        init=lambda key, h, *_: jnp.full((h.shape[1], 3), 0.1),
        inputs=list(inputs),
        name=name,
    )


X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def by_hand(*nodes, holds=("x",)):
    return jsplit.Topology(list(nodes), {"alice": list(holds)})


def refused(message, call):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def well(info):
    """Whether all was finite and in range, in a step, a round or an evaluation."""
    assert info.finite is not None
    return bool(info.finite.all())
