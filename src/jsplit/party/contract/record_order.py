"""One order of records for all parties: by id, then shuffled by a function of (seed, pass).

No id leaves its party. Parties compare how many records they have and a digest of the
sorted ids, which is keyed: by what they agreed on, or by a secret of those who hold
records, see `ids_key`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.identified import own_ids
from jsplit.core.ids import Id, bytes_of, listed
from jsplit.core.trees import as_arrays, batch_of, check_same_records, check_weight

Batches: TypeAlias = Callable[[int], Mapping[str, PyTree]]
"""`batch(step)`: a party's fields for a step, by name."""

KEYED = "keyed "
"""How a digest begins that is keyed by a secret."""
_FIELD = "field `{}` of `data`"
"""What errors call a field."""


class Records:
    """A party's fields, in the order that all share.

    Args:
        fields: by name, arrays of [record, ...]; or `batch(step)`, where the party
            itself sees to it that all give the same records. A party without fields may
            know the ids nevertheless.
        ids: of the records, strings or integers, in a list, a column or a table of one;
            a float that is an integer counts as one, as tables have them where some
            values are missing. Text counts in Unicode's normal form NFC. Without ids
            the order given is the order.
        key: what the digest is keyed by, 64 bytes at most.
        secret: whether that is known to those alone who hold records.
        weight: the name of the field that says how much each record counts; "": none
            does.

    Attributes:
        batches: `batch(step)`, if that was given.
        fields: by name, if these were given.
        count: how many records there are, if that is known.
        order: the place of each record of the shared order in the order given.
        digest: of all ids and weights, if there are any.

    Raises:
        ValueError: if there is not one id for each record, or an id is there twice or
            is none. It gives counts and no ids.
    """

    def __init__(
        self,
        fields: Mapping[str, PyTree] | Batches,
        ids: Iterable[Id] | None = None,
        *,
        key: bytes = b"",
        secret: bool = False,
        weight: str = "",
    ):
        self.batches = fields if callable(fields) else None
        # Read once, and not in every step: a table may be long.
        self.fields = {} if callable(fields) else dict(as_arrays(fields, _FIELD))
        self.order: np.ndarray | None = None
        self.digest: str | None = None
        self.count: int | None = None
        if ids is not None and not callable(fields):
            beside = {n: x for n, x in fields.items() if n != "ids"}
            check_same_records({"ids": ids, **beside}, _FIELD)
        # A generator can be gone through once.
        ids = None if ids is None else listed("ids", ids)
        # Fields that say whose they are have an order, and it is not forgotten.
        ids = ids if callable(fields) else own_ids(fields, ids)
        if self.fields:
            self.count = batch_of(self.fields)
        elif ids is not None and self.batches is None:
            self.count = len(ids)
        counts = self.fields.get(weight)
        if counts is not None:
            check_weights(weight, counts, self.count)
            self.digest = _digest([_bytes_of(counts)], key, secret)
        if ids is None:
            return
        if len(ids) != self.count:
            raise ValueError(
                f"`ids` has {len(ids)} entries for {self.count or 0} records."
            )
        names = bytes_of(ids)
        # By the bytes of the id: a language's own order of strings may depend on where
        # the machine stands.
        self.order = np.array(
            sorted(range(len(names)), key=names.__getitem__), np.int64
        )
        said = [names[i] for i in self.order]
        if counts is not None:
            # Two parties with other weights would train another model each.
            said.append(_bytes_of(np.asarray(counts)[self.order]))
        self.digest = _digest(said, key, secret)

    def take(self, places: np.ndarray) -> dict[str, PyTree]:
        """The records at some places of the shared order.

        Args:
            places: integers, [batch].

        Returns:
            The fields by name, arrays of [batch, ...].
        """
        rows = places if self.order is None else self.order[places]
        return jax.tree.map(lambda x: np.asarray(x)[rows], self.fields)

    def given(self, step: int) -> dict[str, PyTree]:
        """What the party's own function gives for a step.

        Args:
            step: of which.

        Returns:
            The fields by name, arrays of [batch, ...].

        Raises:
            ValueError: if it gives no fields, or one that holds no numbers.
        """
        assert self.batches is not None
        found = self.batches(step)
        if not isinstance(found, Mapping):
            raise ValueError(
                "`data` must give a dictionary of fields for a step, got "
                f"{type(found).__name__}."
            )
        return dict(as_arrays(found, _FIELD))

    def back(self, outputs: PyTree) -> PyTree:
        """Outputs in the order in which this party gave its records.

        Args:
            outputs: arrays of [record, ...] in the shared order.

        Returns:
            The same in the party's order; as they are if it has no ids.
        """
        if self.order is None:
            return outputs
        place = np.argsort(self.order)
        return jax.tree.map(lambda x: x[place], outputs)


def check_weights(name: str, weights: PyTree, count: int | None) -> None:
    """Refuse what does not say of each record, or of each entry of it, how much it counts.

    Raises:
        ValueError: naming the entry, without any value of it.
    """
    found = np.asarray(weights)
    # A column is more likely a slip than records of one entry each.
    column = found.ndim > 1 and found.size == count
    if found.dtype.kind not in "biuf" or found.shape[:1] != (count,) or column:
        raise ValueError(
            f"`{name}` of `data` must hold one number for each of {count or 0} records, "
            f"got {found.dtype}{list(found.shape)}."
        )
    check_weight(f"`{name}` of `data`", found)


def _bytes_of(weights: PyTree) -> bytes:
    # In one form, whatever the dtype in which a party has them.
    found = np.asarray(weights, "<f8")
    # Of 2 records of 3 tokens or of 1 of 6: the same bytes, and other weights.
    entries = str(found.shape[1:]).encode() if found.ndim > 1 else b""
    return entries + found.tobytes()


def _digest(names: Sequence[bytes], key: bytes, secret: bool) -> str:
    """A keyed digest of ids in their order, in hexadecimal, that says how it is keyed."""
    # Keyed, so that who sees it cannot look it up in a table made beforehand.
    found = blake2b(digest_size=16, key=key)
    for name in names:
        # With its length, or ["ab", "c"] and ["a", "bc"] would have one digest.
        found.update(len(name).to_bytes(8, "little") + name)
    return (KEYED if secret else "") + found.hexdigest()


def places_of(step: int, count: int, batch: int, seed: int) -> np.ndarray:
    """Which records a step of training takes: a function of (seed, step).

    Each pass goes through all in another order and leaves out the last ones that fill
    no batch, so that every step has a full one.

    Args:
        step: counted from 0, of the one whose records these are.
        count: how many records there are.
        batch: how many a step takes.
        seed: that all have agreed on.

    Returns:
        Places in the shared order, int64 [batch].
    """
    number, at = divmod(step, count // batch)
    return _shuffled(number, count, seed)[at * batch : (at + 1) * batch]


# Drawn once for all steps of a pass, of a few parties or clients at a time.
@lru_cache(4)
def _shuffled(number: int, count: int, seed: int) -> np.ndarray:
    """The order of a pass, int64 [count]."""
    found = np.random.default_rng([seed, number]).permutation(count)
    # Steps get views of it, and writing into one would change the order of the others.
    found.flags.writeable = False
    return found
