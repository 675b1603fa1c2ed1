"""Fields whose rows say which records they are of, so that others in another order are refused.

They are made of tables with ids (`jsplit.records`), and go wherever an array goes. What is
taken of their rows keeps its ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import cast

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.ids import Id, bytes_of

_WORDS = 2  # of 64 bits in the place of an id: no two of them meet by chance


class Whose:
    """Which records the rows of a table are of.

    Args:
        ids: one for each row.
        marks: what stands for each, where that is known already, uint64 [n, 2].
    """

    def __init__(self, ids: Sequence[Id], marks: np.ndarray | None = None):
        self.ids = ids
        self._marks = marks

    @property
    def marks(self) -> np.ndarray:
        """A hash of each id, uint64 [n, 2]: what is compared in every step."""
        # When first asked for, and once: of a million ids it takes seconds.
        if self._marks is None:
            found = b"".join(
                blake2b(name, digest_size=8 * _WORDS).digest()
                for name in bytes_of(self.ids)
            )
            self._marks = np.frombuffer(found, np.uint64).reshape(-1, _WORDS)
        return self._marks

    def take(self, rows: np.ndarray) -> Whose:
        """Those of some rows; a row may be taken twice, as a sample does."""
        ids: list[Id] = [self.ids[int(i)] for i in rows]
        return Whose(ids, self.marks[rows])

    def same(self, other: Whose) -> bool:
        """Whether both are of the same records in the same order."""
        return self is other or np.array_equal(self.marks, other.marks)


class Identified:
    """An array whose rows say which records they are of.

    NumPy and JAX read it as the array that it holds, and its text has neither values nor
    ids. `field[rows]` keeps the ids of the rows; whatever computes with it gives an array.

    Args:
        array: [record, ...].
        whose: of its rows.

    Attributes:
        array: as given.
        whose: as given.
    """

    def __init__(self, array: np.ndarray, whose: Whose):
        self.array, self.whose = array, whose

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the array."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """How many axes the array has."""
        return self.array.ndim

    @property
    def ids(self) -> Sequence[Id]:
        """Of the rows, as a party brings them to `jsplit.party.run`."""
        return self.whose.ids

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[PyTree]:
        return iter(self.array)

    def __array__(
        self, dtype: np.dtype | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.array(self.array, dtype, copy=copy)

    def __getitem__(self, key: PyTree) -> Identified | np.ndarray:
        given = cast("tuple[PyTree, ...]", key if isinstance(key, tuple) else (key,))
        # `field[...]` and `field[()]` are of all rows.
        first = given[0] if given and given[0] is not Ellipsis else slice(None)
        taken = self.array[key]
        # One row, or a new axis in front: what is left has no rows to keep ids of.
        if not isinstance(first, slice) and np.ndim(first) != 1:
            return taken
        rows = np.arange(len(self.array))[first]
        return Identified(taken, self.whose.take(rows))

    def __repr__(self) -> str:
        return f"Identified({self.dtype}{list(self.shape)})"


def check_records(fields: Mapping[str, PyTree], place: str) -> None:
    """Refuse fields whose rows are of other records, or of the same in another order.

    Raises:
        ValueError: naming two fields, and no id.
    """
    first: tuple[str, Whose] | None = None
    for name, value in fields.items():
        for x in jax.tree.leaves(value):
            if not isinstance(x, Identified):
                continue
            if first is None:
                first = name, x.whose
            # Of another length is another error, which says the lengths.
            elif len(first[1].ids) == len(x) and not first[1].same(x.whose):
                raise ValueError(
                    f"{place.format(name)} and `{first[0]}` are of other records, or of "
                    "the same in another order, as their ids say; `jsplit.align` brings "
                    "tables into one order, and each must be taken by the same rows."
                )


def own_ids(
    fields: Mapping[str, PyTree], ids: Sequence[Id] | None
) -> Sequence[Id] | None:
    """The ids that fields bring with them, compared with those that are given beside.

    Args:
        fields: by name.
        ids: of the records, as they were given; `None` if they were not.

    Returns:
        The ids of the records, or `None` if neither says them.

    Raises:
        ValueError: if both say so, and not the same.
    """
    for value in fields.values():
        for x in jax.tree.leaves(value):
            if not isinstance(x, Identified):
                continue
            if ids is None:
                return x.ids
            if len(ids) == len(x) and not x.whose.same(Whose(ids)):
                raise ValueError(
                    "`ids` are not those that the fields of `data` have, in their order; "
                    "leave them out, since the fields bring their own."
                )
    return ids
