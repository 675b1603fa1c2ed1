"""One order of records for all parties: by id, then shuffled by a function of (seed, pass). No id leaves its party.

Parties compare how many records they have and a digest of the sorted ids, which is keyed by what they agreed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.trees import batch_of

Batches = Callable[[int], Mapping[str, PyTree]]


class Records:
    """A party's fields, in the order that all share.

    Args:
        fields: by name, arrays of [record, ...]; or `batch(step)`, where the party itself sees to it that all give the
            same records; a party without fields may know the ids nevertheless.
        ids: of the records, strings or integers; a float that is an integer counts as one, as tables have them where some
            values are missing. Without ids the order given is the order.
        key: what the digest is keyed by.

    Raises:
        ValueError: if there is not one id for each record, or an id is there twice or is none; it gives counts, no ids.
    """

    def __init__(
        self,
        fields: Mapping[str, PyTree] | Batches,
        ids: Sequence[Any] | None = None,
        *,
        key: str = "",
    ):
        self.batches = fields if callable(fields) else None
        self.fields = {} if callable(fields) else dict(fields)
        self.order: np.ndarray | None = None
        self.count = (
            batch_of(self.fields)
            if self.fields
            else len(ids)
            if ids is not None and not self.batches
            else None
        )
        self.digest: str | None = None
        if ids is not None:
            if len(ids) != self.count:
                raise ValueError(
                    f"`ids` has {len(ids)} entries for {self.count or 0} records."
                )
            names = [_name_of(i) for i in ids]
            if odd := names.count(b""):
                raise ValueError(
                    f"`ids` of {len(names)} records: {odd} are neither strings nor integers."
                )
            if twice := len(names) - len({*names}):
                raise ValueError(
                    f"`ids` of {len(names)} records: {twice} are there more than once."
                )
            self.order = np.array(
                sorted(range(len(names)), key=names.__getitem__), np.int64
            )
            found = blake2b(digest_size=16, key=key.encode()[:64])
            for i in self.order:
                found.update(len(names[i]).to_bytes(8, "little") + names[i])
            self.digest = found.hexdigest()

    def take(self, places: np.ndarray) -> dict[str, PyTree]:
        """The records at some places of the shared order."""
        rows = places if self.order is None else self.order[places]
        return jax.tree.map(lambda x: np.asarray(x)[rows], self.fields)

    def back(self, outputs: PyTree) -> PyTree:
        """Outputs in the order in which this party gave its records, from the shared order."""
        if self.order is None:
            return outputs
        place = np.argsort(self.order)
        return jax.tree.map(lambda x: x[place], outputs)


def _name_of(i: Any) -> bytes:
    """An id in bytes, the same at every party that has it; nothing if it is none."""
    if isinstance(i, str):
        return f"str:{i}".encode()
    whole = hasattr(i, "__index__") or (
        isinstance(i, (float, np.floating)) and float(i).is_integer()
    )
    return f"int:{int(i)}".encode() if whole else b""


def places_of(step: int, count: int, batch: int, seed: int) -> np.ndarray:
    """Which records, by their place in the shared order, a step of training takes: a function of (seed, step).

    Each pass goes through all in another order and leaves out the last ones that fill no batch.
    """
    number, at = divmod(step, count // batch)
    return _shuffled(number, count, seed)[at * batch : (at + 1) * batch]


@lru_cache(4)
def _shuffled(number: int, count: int, seed: int) -> np.ndarray:
    """The order of a pass. It is drawn once for all steps of the pass, of a few parties or clients at a time."""
    found = np.random.default_rng([seed, number]).permutation(count)
    found.flags.writeable = False
    return found
