"""Batches from arrays: shuffled by (key, epoch), and what becomes of the ragged last one.

Who reads what is a function of these two alone, so any epoch can be read again from any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.keys import is_key
from jsplit.core.trees import as_arrays, as_weight, batch_of
from jsplit.fitting.pieces import Read
from jsplit.fitting.records import Piece
from jsplit.training.initial import seed_of as as_key


def seed_of(key: jax.Array | int) -> list[int]:
    """The integers of a key, from which generators of NumPy are seeded.

    Raises:
        ValueError: if it is neither a key nor an integer, as for `trainer.init`.
    """
    as_key(key)
    if is_key(key):
        return [int(x) for x in np.asarray(jax.random.key_data(key)).ravel()]
    if np.ndim(key):
        return [int(x) for x in np.asarray(key).ravel()]
    # NumPy takes none below 0.
    return [int(key) % (1 << 64)]


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a data set, epoch by epoch.

    Attributes:
        fields: by name, [records, ...].
        weight: how much each record counts, [records, ...]; `None`: all alike.
        batch: records of a step.
        last: "keep", "pad" or "drop", what becomes of the ragged last batch.
        seed: of the order; `None`: as they lie.
    """

    fields: Mapping[str, PyTree]
    weight: np.ndarray | None
    batch: int
    last: str
    seed: list[int] | None

    @property
    def records(self) -> int:
        """How many there are."""
        return batch_of(self.fields)

    def pieces(self, epoch: int) -> Iterator[Read]:
        """What each step of an epoch reads; nothing is gathered before it is asked for."""
        count, size = self.records, self.batch
        order = np.arange(count)
        if self.seed is not None:
            order = np.random.default_rng([*self.seed, epoch]).permutation(count)
        for start in range(0, count, size):
            rows = order[start : start + size]
            if len(rows) < size and self.last == "drop":
                return
            yield partial(self._read, rows)

    def _read(self, rows: np.ndarray) -> Piece:
        counts = np.ones(len(rows), np.float32)
        weight = None if self.weight is None else self.weight[rows]
        if len(rows) < self.batch and self.last == "pad":
            # Records of this batch again, which count for nothing: BatchNorm would see
            # zeros.
            filled = np.resize(rows, self.batch)
            weight = counts if weight is None else weight
            rest = [(0, self.batch - len(rows)), *[(0, 0)] * (weight.ndim - 1)]
            rows, weight = filled, np.pad(weight, rest)
        elif self.last == "pad" and weight is None:
            # As the last one has it: a step with weights is another program.
            weight = counts
        return Piece(jax.tree.map(lambda x: x[rows], dict(self.fields)), weight)


def as_batches(
    fields: Mapping[str, PyTree],
    weight: PyTree,
    batch: int,
    last: str,
    seed: list[int] | None,
) -> Batches:
    """Check a data set, and the weights of its records.

    Raises:
        ValueError: if fields do not have the same number of records, the weights have
            another, or no batch is left.
    """
    given = as_arrays(fields, "field `{}` of the data")
    count = batch_of(given)
    counts = None if weight is None else np.asarray(as_weight(weight))
    if counts is not None and counts.shape[:1] != (count,):
        raise ValueError(
            f"`weight` must have one number for each of {count} records, got shape "
            f"{list(counts.shape)}."
        )
    if last == "drop" and count < batch:
        raise ValueError(
            f'`last="drop"` leaves no batch of {batch}: there are {count} records.'
        )
    return Batches(given, counts, batch, last, seed)
