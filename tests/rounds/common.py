"""What the tests of rounds share: populations, runs of rounds, and every algorithm by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from jsplit import population, rounds
from tests.oracles import difference

KERNELS = ("fast", "xla")
CLIENTS = {
    "vanilla": "client",
    "u_shaped": "client",
    "vertical": ("lab", "clinic"),
    "extended_vanilla": ("lab", "clinic"),
    "multitask": ("lab", "clinic"),
    "multihop": ("one", "two"),
}


def trees_of(state):
    """Parameters and statistics of all parties as those of the whole model."""
    return [
        jsplit.merge(
            *(t for p in state.parties.values() for t in getattr(p, kind).values())
        )
        for kind in ("params", "state")
    ]


def far(a, b):
    return max(map(difference, trees_of(a), trees_of(b)))


def people(sizes, seed=0):
    """A population in which client after client has so many records."""
    ends = np.cumsum(sizes)
    return population.Population(
        tuple(np.arange(e - n, e) for e, n in zip(ends, sizes, strict=True)),
        tuple(map(str, sizes)),
        seed,
    )


def batches_of(drawn, fields):
    """Every batch of a round in its order, without what only fills it up."""
    for k, count in enumerate(drawn.steps):
        for s in range(count):
            real = drawn.reads[k, s][drawn.weight[k, s] > 0]
            yield {n: x[real] for n, x in fields.items()}


def steps_of(trainer, batches, example):
    state = trainer.init(jax.random.key(1), example)
    for batch in batches:
        state, info = trainer.step(state, batch)
    return state


def after(algorithm, drawn, key=1):
    state = algorithm.init(jax.random.key(key), drawn[0])
    state, info = algorithm.step(state, drawn[0])
    for r in drawn[1:]:
        state, info = algorithm.step(state, r)
    return state, info


FEEDBACK = jsplit.Link(
    lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
    lambda memory, value, key: (
        (sent := jax.tree.map(jnp.add, value, memory)),
        jax.tree.map(lambda x: 0.1 * x, sent),
    ),
    lambda payload, like: payload,
)
"""A link with a memory: a tenth of what was sent is sent once more."""


def first(batch, count=8):
    return {n: x[:count] for n, x in batch.items()}


ALGORITHMS = {
    "turns": lambda t, **o: rounds.take_turns(t, "client", **o),
    "turns, own bottoms": lambda t, **o: rounds.take_turns(
        t, "client", handoff="none", **o
    ),
    "parallel": lambda t, **o: rounds.parallel(t, "client", **o),
    "parallel, shared": lambda t, **o: rounds.parallel(
        t, "client", bottoms="shared", **o
    ),
    "splitfed 1": lambda t, **o: rounds.splitfed(t, "client", **o),
    "splitfed 2": lambda t, **o: rounds.splitfed(t, "client", version=2, **o),
    "splitfed 3": lambda t, **o: rounds.splitfed(
        t, "client", version=3, statistics="own", moments="own", **o
    ),
    "fedavg": lambda t, **o: rounds.fedavg(t, server=optax.adam(0.01), **o),
    "large batch": rounds.large_batch_sgd,
    "centralized": rounds.centralized,
    "alone": rounds.alone,
}
AT_ONCE = ("splitfed 1", "splitfed 3", "fedavg", "alone")
