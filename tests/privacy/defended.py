"""What the tests of defences share: a run of two parties, with a defence and without."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from jsplit import rounds

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype(np.float32)
LABEL = (X[:, 0] + 0.3 * RNG.normal(size=32) > 0.4).astype(np.float32)
BATCH = {"x": X, "label": LABEL}
WIDTH = 5
INTERPRETERS = {"fused": jsplit.fused, "messages": jsplit.messages}
ALGORITHMS = {
    "alone": rounds.alone,
    "take_turns": lambda t: rounds.take_turns(t, "client"),
    "splitfed": lambda t: rounds.splitfed(t, "client"),
    "parallel": lambda t: rounds.parallel(t, "client"),
}
PEOPLE = jsplit.population.grouped(["north", "south"] * 16)


def layers():
    bottom = jsplit.segment(
        lambda w, x: jnp.tanh(x @ w),
        init=lambda key, x: jax.random.normal(key, (6, WIDTH)) / 2,
        inputs=["x"],
        name="h",
    )
    top = jsplit.segment(
        lambda w, h: (h @ w)[:, 0],
        init=lambda key, h: jax.random.normal(key, (WIDTH, 1)),
        inputs=["h"],
        name="logit",
    )
    return bottom, top


def pair():
    return jsplit.vanilla(*layers(), loss=optax.sigmoid_binary_cross_entropy)


def trainer(make, links=None, topology=None, rate=0.1):
    rates = optax.sgd(rate, momentum=0.5)
    return make(topology or pair(), rates, **({"links": links} if links else {}))


def parameters(state):
    return {p: x.params for p, x in state.parties.items()}


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), a, b))


def secrets(state, seed=5):
    """The same secrets in every run, for those parties that have one."""
    keys = {
        p: jax.random.key(seed + i)
        for i, (p, x) in enumerate(sorted(state.parties.items()))
        if x.secret is not None
    }
    return jsplit.with_secrets(state, keys) if keys else state


def trained(one, batch=BATCH, steps=3, strengths=None):
    state = secrets(one.init(0, batch))
    if strengths:
        state = jsplit.set_hyperparams(state, strengths)
    for _ in range(steps):
        state, _ = one.step(state, batch)
    return state


def encode(link, value, key=0, **own):
    """What a link makes of a value, told its strengths as they are at first."""
    for name, x in link.strengths.items():
        number = x.value if isinstance(x, jsplit.Strength) else x
        own.setdefault(name, jnp.float32(number))
    told = [own] if link.reads or link.strengths else []

    # One program: op by op, each shape of each operation is compiled for itself.
    @jax.jit
    def sent(value, key, *told):
        return link.encode(link.init(value), value, key, *told)[0]

    return sent(value, jax.random.key(key), *told)


def draws(link, value, count, **own):
    """Many draws of what a link makes of one value, [count, ...]."""
    for name, x in link.strengths.items():
        own.setdefault(name, jnp.float32(x))
    keys = jax.random.split(jax.random.key(1), count)
    told = [own] if own else []
    return jax.jit(jax.vmap(lambda k: link.encode((), value, k, *told)[0]))(keys)
