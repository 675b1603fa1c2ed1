"""What a loop reads in an epoch, whatever the data is: a source of pieces, one for each step.

A digest of what a step reads tells whether a training that goes on reads what it has read before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.keys import is_key
from jsplit.core.trees import nbytes
from jsplit.fitting.records import Piece
from jsplit.populations.round import Round
from jsplit.populations.stored import Stored

Read = Callable[[], Piece]
"""Gives what one step reads. Steps that are done already are passed over without a call."""

Given = Mapping[str, PyTree] | Round | Iterable[object] | Callable[[int], object]
"""Data as users give it to `jsplit.fit`."""


@dataclass(frozen=True)
class Source:
    """What is read, epoch by epoch.

    Attributes:
        pieces: `pieces(epoch)`, in the order of the steps.
        settings: what must be the same when a training goes on, by argument.
        name: of the argument that it is made of.
    """

    pieces: Callable[[int], Iterable[Read]]
    settings: Mapping[str, object] = field(default_factory=dict)
    name: str = "data"

    def first(self) -> Piece:
        """What the first step reads, of which shapes are wanted.

        Raises:
            ValueError: if there is none.
        """
        for read in self.pieces(0):
            return read()
        raise ValueError(f"`{self.name}` gives no batch in epoch 0.")


def stream(name: str, data: Given) -> Source:
    """The source of an iterable, or of a function of the epoch.

    Args:
        name: of the argument, for errors.
        data: an iterable of batches (fields by name, or pairs (fields, weight)) or of
            rounds, or `data(epoch)` that gives one, or one batch or round.

    Raises:
        ValueError: if it can be read once only, or is neither.
    """
    if callable(data) and not isinstance(data, Iterable):
        return Source(lambda epoch: _reads(name, data(epoch)), name=name)
    if not isinstance(data, Iterable):
        raise ValueError(
            f"`{name}` must be a mapping of arrays, an iterable of batches, or a function "
            f"of the epoch that gives one, got {shown(data)}."
        )
    # A generator would be empty in the second epoch. Asked of the object itself: to make
    # an iterator starts the workers of some loaders.
    if hasattr(data, "__next__"):
        raise ValueError(
            f"`{name}` is an iterator, which can be read once only: give a list, a loader, "
            "or a function of the epoch that makes a new one."
        )
    return Source(lambda epoch: _reads(name, data), name=name)


def _reads(name: str, given: object) -> Iterator[Read]:
    # A round is a tuple, and a batch an iterable of names.
    if isinstance(given, Mapping | Round):
        given = [given]
    if not isinstance(given, Iterable):
        raise ValueError(
            f"`{name}` must give batches in each epoch, got {shown(given)}."
        )
    for item in given:
        piece = _piece(name, item)
        yield lambda piece=piece: piece


def _piece(name: str, item: object) -> Piece:
    if isinstance(item, Mapping | Round):
        return Piece(item)
    # As `evaluate` takes a set.
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Mapping):
        return Piece(*item)
    raise ValueError(
        f"`{name}` must give batches, fields by name, or pairs (fields, weight); it gave "
        f"{shown(item)}."
    )


_WHOLE = 1 << 26
"""Bytes of a data set that are looked at; of a larger one no more than its first step."""


def digest_of_all(fields: Mapping[str, PyTree], first: Piece) -> str:
    """A digest of a data set: of all of it, or of a large one of its first step.

    Args:
        fields: by name, [records, ...]; they may lie in a file.
        first: what the first step reads.
    """
    return digest(Piece(fields) if is_small(fields) else first)


def is_small(fields: Mapping[str, PyTree]) -> bool:
    """Whether a data set is small enough to be looked at as a whole."""
    leaves = jax.tree.leaves(dict(fields))
    # What is read by rows may be no array, and is not read as a whole.
    if any(isinstance(x, Stored) for x in leaves):
        return False
    return nbytes(fields) <= _WHOLE


def digest(piece: Piece) -> str:
    """A digest of what a step reads: of every array of it, with shape and dtype."""
    found = sha256()
    batch: PyTree = piece.batch
    if isinstance(batch, Round):
        # Of the data set, which may be large, what the first step of it reads.
        rows = batch.reads[0, 0]
        some = jax.tree.map(lambda x: x[rows], dict(batch.fields))
        batch = (some, batch.reads, batch.weight, batch.client, batch.steps)
    paths, _ = jax.tree.flatten_with_path((batch, piece.weight))
    for path, x in chain(paths):
        data = np.asarray(jax.random.key_data(x) if is_key(x) else x)
        head = f"{jax.tree_util.keystr(path)} {data.dtype} {data.shape}"
        found.update(head.encode())
        # Strings, which no model reads, have no bytes of their own as objects.
        found.update(repr(data).encode() if data.dtype == object else data.tobytes())
    return found.hexdigest()
