"""A turn of one session mapped over several, and arrays of them along a first axis.

`jax.vmap` of the turn: what all share has no axis, and what a cache is need not be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract
from jsplit.training.kinds import Kind
from jsplit.training.walk import Address, Store, Turn


def same(one: PyTree, other: PyTree) -> bool:
    """Whether two trees have arrays of the same shapes and dtypes at the same places."""
    # Leaf by leaf: a node of the user's own need not know when it equals another.
    a, b = (jax.tree.flatten(abstract(tree)) for tree in (one, other))
    return a == b


def two(tree: PyTree) -> PyTree:
    """The shapes of two of a tree, side by side."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), abstract(tree)
    )


def of_one(
    turn: Turn,
    base: Mapping[Address, PyTree],
    shared: Sequence[PyTree],
    caches: Store,
    given: Sequence[PyTree],
) -> tuple[Store, tuple]:
    """A turn for one session: its caches, and what else it writes."""
    common, rest = iter(shared), iter(given)
    values = []
    for read in turn.reads:
        if read.kind is Kind.CACHE:
            values.append(caches[read])
        else:
            values.append(next(common if read in base else rest))
    written = dict(zip(turn.writes, turn.run(*values), strict=True))
    after = {name: written.get(name, own) for name, own in caches.items()}
    results = tuple(None if w.kind is Kind.CACHE else x for w, x in written.items())
    return after, results


def mapped(
    turn: Turn,
    base: Mapping[Address, PyTree],
    shared: Sequence[PyTree],
    caches: Store,
    given: Sequence[PyTree],
) -> tuple[Store, tuple]:
    """A turn for sessions along the first axis of caches and of what is given."""
    return jax.vmap(partial(of_one, turn, base, shared))(caches, given)


def taken(every: jax.Array, lanes: jax.Array) -> jax.Array:
    """Some lanes of all."""
    # One after the other: XLA gathers and scatters element by element on a CPU.
    return jnp.stack(
        [
            jax.lax.dynamic_index_in_dim(every, lanes[i], keepdims=False)
            for i in range(lanes.shape[0])
        ]
    )


def put_back(every: jax.Array, some: jax.Array, lanes: jax.Array) -> jax.Array:
    """All lanes, with what some have now."""
    for i in range(lanes.shape[0]):
        every = jax.lax.dynamic_update_index_in_dim(every, some[i], lanes[i], 0)
    return every


@partial(jax.jit, donate_argnums=0)
def put(every: Store, one: Store, lane: jax.Array) -> Store:
    return jax.tree.map(lambda x, own: x.at[lane].set(own), every, one)


@jax.jit
def get(every: Store, lane: jax.Array) -> Store:
    return jax.tree.map(lambda x: x[lane], every)


def longer(size: int, x: jax.Array) -> jax.Array:
    """More lanes, with what the first has in the new ones."""
    more = jnp.broadcast_to(x[:1], (size - x.shape[0], *x.shape[1:]))
    return jnp.concatenate([x, more])
