"""What tells a round's evaluation from all others, and its batches from each other.

It lies in the store beside the states while a round is measured, and in no state. Each
client has a secret of its own, so one number serves all of them.
"""

from __future__ import annotations

import jax

from jsplit.core.base import PyTree
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name, Store

OF_ROUND = Name("", Kind.NOISE)
"""Where the words lie, uint32 [words], the last of which is the number of the batch."""


def words_in(store: Store, batches: jax.Array | int = 0) -> PyTree:
    """The words of the next batch, or of one so many after it; `None` where nobody draws."""
    words = store.get(OF_ROUND)
    return None if words is None else words.at[-1].add(batches)


def after_one(store: Store) -> Store:
    """The store before the next batch."""
    words = words_in(store, 1)
    return store if words is None else {**store, OF_ROUND: words}
