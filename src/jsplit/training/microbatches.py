"""A batch divided into micro-batches: one part of it, and a loop over all parts in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
from jsplit.training.recording import taped
from jsplit.training.sums import total, zero_sums
from jsplit.training.walk import Name, Store, execute
from jsplit.training.walks import Walks


def part_of(tree: PyTree, number: int, count: int) -> PyTree:
    """One of `count` equal parts of every array, along its first axis."""

    def cut(x: jax.Array) -> jax.Array:
        # A slice of what the caller gave, NumPy or JAX: no copy before
        # it is needed.
        size = len(x) // count
        return x[number * size : (number + 1) * size]

    return jax.tree.map(cut, tree)


def run_microbatches(config: Config, walks: Walks, store: Store) -> None:
    """Run forward and backward passes over each part of the batch in turn.

    Afterwards the store holds the sums of gradients, and the means of
    losses; and what is recorded, with an axis of micro-batches.
    """
    count, ops = config.microbatches, walks.train.ops
    divided = {n: x for n, x in store.items() if n.kind in (Kind.VALUE, Kind.WEIGHT)}
    parts = jax.tree.map(
        lambda x: jnp.reshape(x, (count, x.shape[0] // count, *x.shape[1:])), divided
    )
    first = jax.tree.map(lambda x: x[0], parts)

    # Statistics and memories of links go from part to part, as in
    # `messages`.
    carry = {n: x for n, x in store.items() if n.kind in (Kind.STATE, Kind.LINK)}
    fixed = {n: x for n, x in store.items() if n not in divided and n not in carry}
    carry |= zero_sums(ops, {**store, **first})
    numbers = [Name(p, Kind.MICRO) for p in config.topology.parties]

    recorded = taped(config, walks)

    def body(carry: Store, part: tuple[Store, jax.Array]) -> tuple[Store, Store]:
        fields, number = part
        store = {**fixed, **carry, **fields, **dict.fromkeys(numbers, number)}
        execute(ops, store)
        return {n: store[n] for n in carry}, {n: store[n] for n in recorded}

    carry, found = jax.lax.scan(body, carry, (parts, jnp.arange(count)))
    store.update({**carry, **found})
    for name in walks.losses:
        store[name] = store[total(name)] / count
