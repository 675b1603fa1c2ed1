"""What the tests of the loop share: a tiny problem, and trainers that are compiled once."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import optax

import jsplit

RECORDS, BATCH = 10, 4


def bottom(params, x):
    return jax.numpy.tanh(x @ params)


def first_weights(rows, columns):
    def init(key, x):
        return jax.random.normal(key, (rows, columns))

    return init


def loss(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def gap(logits, label):
    """Of all examples of a set: no mean of examples."""
    one, other = (np.abs(logits[label == c]).max(initial=0.0) for c in (1, 0))
    return float(one - other)


@cache
def topology():
    client = jsplit.segment(bottom, init=first_weights(3, 2), inputs=["x"])
    server = jsplit.segment(
        lambda params, h: h @ params, init=first_weights(2, 2), inputs=["h"]
    )
    made = jsplit.vanilla(client, server, loss=loss)
    return made.add(jsplit.Metric("gap", gap, "server", ["output", "label"]))


@cache
def trainer(**options):
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.05)
    return jsplit.fused(topology(), adam, **options)


@cache
def algorithm(version=1):
    plain = jsplit.fused(
        topology(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    )
    return jsplit.rounds.splitfed(plain, client="client", version=version)


def some(seed=0, records=RECORDS):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(records, 3)).astype("float32")
    return {"x": x, "label": (x.sum(1) > 0.3).astype("int32")}


def same(one, other):
    """Whether two states are equal bit for bit."""

    def bits(x):
        is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(bits(a) == bits(b) for a, b in pairs)


def params(state):
    return jax.tree.leaves([own.params for own in state.parties.values()])
