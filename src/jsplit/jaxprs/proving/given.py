"""What arrays give away of a field, all together, read strictly first and then less so.

Entries that each gives by itself, and those that sums in several can be solved for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jsplit.jaxprs.proving.facts import Atoms, Fact, union
from jsplit.jaxprs.proving.spanning import told


class Numbers(NamedTuple):
    """The numbers of the entries of each field: which lie where.

    Attributes:
        first: by field, the number of its first entry.
        size: by field, how many it has in all records.
        most: by field of class numbers, the largest that there is, as far as it is known.
    """

    first: Mapping[str, int]
    size: Mapping[str, int]
    most: Mapping[str, int] = MappingProxyType({})

    def of(self, field: str, given: np.ndarray) -> np.ndarray:
        """The sorted numbers, of those given, that are of a field."""
        low = self.first[field]
        return given[(given >= low) & (given < low + self.size[field])]


class Given(NamedTuple):
    """Entries of a field that are given away, and under which conditions.

    Attributes:
        entries: their numbers.
        rounded: whether to fewer bits.
        some: whether only where a threshold or mask lets them through.
        key: atoms up to which they are known.
    """

    entries: np.ndarray
    rounded: bool
    some: bool
    key: Atoms


def readings(
    facts: Sequence[Fact], numbers: Numbers, field: str, records: int
) -> Iterator[Given]:
    """What arrays give away of a field, by ever fewer of the strict proofs.

    Args:
        facts: of the arrays.
        numbers: of the entries of fields.
        field: its name.
        records: in the programs.
    """
    bearing = [f for f in facts if _bears(f, numbers, field)]
    before: list[Fact] = []
    # The strictest reading first: a weaker one stands only if it gives more.
    for rounded, keyed, some in _READINGS:
        chosen = [
            f
            for f in bearing
            if rounded >= f.rounded and keyed >= bool(f.key) and some >= f.some
        ]
        if not chosen or chosen == before:
            continue
        before = chosen
        given = [f.given() for f in chosen]
        entries = numbers.of(field, np.unique(np.concatenate(given)))
        if len(entries) < numbers.size[field]:
            entries = numbers.of(
                field, np.unique([*entries, *_solved(chosen, numbers, records)])
            )
        if len(entries):
            yield Given(
                entries,
                any(f.rounded for f in chosen),
                any(f.some for f in chosen),
                union(f.key for f in chosen),
            )


def _bears(fact: Fact, numbers: Numbers, field: str) -> bool:
    """Whether an array gives away, or is made of, entries of a field."""
    own = fact.given()
    if fact.affine is not None:
        own = np.concatenate([own, fact.affine.basis])
    return bool(numbers.of(field, own).size)


def _solved(facts: Sequence[Fact], numbers: Numbers, records: int) -> np.ndarray:
    """The numbers of entries that sums in arrays can be solved for, all together."""
    sums = [(f.affine.basis, f.affine.rows()) for f in facts if f.affine]
    sums = [(basis, rows) for basis, rows in sums if rows is not None]
    if not sums:
        return np.zeros(0, np.int64)
    every = np.unique(np.concatenate([basis for basis, _ in sums]))
    lines: list[np.ndarray] = []
    for basis, rows in sums:
        flat = rows.reshape(len(basis), -1).T
        flat = flat[np.isfinite(flat).all(1)]
        # Of a complex sum the two parts are sums of real numbers.
        flat = (
            np.concatenate([np.real(flat), np.imag(flat)])
            if rows.dtype.kind == "c"
            else flat
        )
        wide = np.zeros((len(flat), len(every)))
        wide[:, np.searchsorted(every, basis)] = flat
        lines.append(wide)
    all_lines = np.concatenate(lines)
    of_record = _records_of(every, numbers, records)
    found: list[np.ndarray] = []
    for record in range(records):
        own = of_record == record
        # Sums over records are others in batches of another size.
        alone = (all_lines[:, ~own] == 0).all(1) & (all_lines[:, own] != 0).any(1)
        if alone.any():
            found.append(every[own][told(all_lines[np.ix_(alone, own)])])
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _records_of(every: np.ndarray, numbers: Numbers, records: int) -> np.ndarray:
    """Of numbers of entries, the record of each."""
    found = np.zeros(len(every), np.int64)
    for field, first in numbers.first.items():
        size = numbers.size[field]
        own = (every >= first) & (every < first + size)
        found[own] = (every[own] - first) // max(1, size // records)
    return found


_READINGS = [
    (rounded, keyed, some)
    for some in (False, True)
    for keyed in (False, True)
    for rounded in (False, True)
]
