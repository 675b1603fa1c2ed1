"""A party's table: columns of records that are known by their ids, and checked when it is read.

Ids never leave it but by `ids`: no error, text or log has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType

import numpy as np

from jsplit.core.arrays import Foreign
from jsplit.core.checks import shown
from jsplit.core.identified import Identified, Whose
from jsplit.core.ids import Id, as_entries, bytes_of, listed
from jsplit.tabular.reading import (
    check_rows_of,
    check_whose,
    columns_of_frame,
    is_missing,
    read_column,
)

# What `str` makes of a missing value: an id that many tables have by accident.
_WRITTEN = frozenset(("", "nan", "NaN", "None", "NaT", "<NA>"))
_PARTS = 2**64  # of which `split` takes a share


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Records of a party by column, each known by its id; made by `jsplit.records`.

    `table["age"]` is a column of numbers as a field of a batch, which knows whose its rows
    are: a trainer refuses it beside one of other records. `len(table)` counts records.

    Attributes:
        columns: by name: int64 or float64 [record], where NaN is missing; objects, text
            and `None`; or an array [record, ...].
        whose: of the rows.

    Example:
        >>> import jsplit
        >>> table = jsplit.records({"patient": ["b", "a"], "age": [61, 58]}, id="patient")
        >>> table
        Table(2 records by their ids: age)
        >>> [*table["age"][1:].ids]
        ['a']
    """

    columns: Mapping[str, np.ndarray]
    whose: Whose = field(repr=False)

    @property
    def ids(self) -> Sequence[Id]:
        """One for each record: text or integers. They are `ids` of `jsplit.party.run`.

        Example:
            >>> import jsplit
            >>> jsplit.records({"id": [3.0, 1.0]}, id="id").ids
            [3, 1]
        """
        return self.whose.ids

    def __len__(self) -> int:
        return len(self.whose.ids)

    def __repr__(self) -> str:
        return f"Table({len(self)} records by their ids: {', '.join(self.columns)})"

    def column(self, name: str) -> np.ndarray:
        """A column, as it was read.

        Args:
            name: of it.

        Returns:
            As in `columns`.

        Raises:
            ValueError: naming those that there are.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"id": [1, 2], "ward": ["A", None]}, id="id")
            >>> table.column("ward").tolist()
            ['A', None]
        """
        if name not in self.columns:
            raise ValueError(
                f"there is no column {shown(name)}; the table has "
                f"{', '.join(self.columns) or 'none'}."
            )
        return self.columns[name]

    def __getitem__(self, name: str) -> Identified:
        found = self.column(name)
        if found.dtype == object:
            raise ValueError(
                f"the column `{name}` is text; `jsplit.preprocessing` makes numbers of it."
            )
        return Identified(found, self.whose)

    def take(self, rows: Sequence[int] | np.ndarray | slice) -> Table:
        """The table of some rows, in their order.

        Args:
            rows: places, a mask [record] or a slice.

        Returns:
            A table of as many columns.

        Raises:
            ValueError: if they are no places of rows, a row is taken twice, or the mask
                is not of all rows.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"id": [1, 2, 3], "age": [30, 50, 70]}, id="id")
            >>> table.take(table.column("age") > 40).ids
            [2, 3]
        """
        at = rows if isinstance(rows, slice) else self._places(rows)
        places = np.arange(len(self))[at]
        if twice := len(places) - len(np.unique(places)):
            raise ValueError(f"`rows` must take a record once, got {twice} twice.")
        columns = {name: x[places] for name, x in self.columns.items()}
        return Table(MappingProxyType(columns), self.whose.take(places))

    def _places(self, rows: Foreign) -> np.ndarray:
        """Rows that are to be taken as integers [n], or a mask [record]."""
        at, count = np.asarray(rows), len(self)
        if not at.size:
            at = at.astype(np.int64)
        if at.ndim != 1 or at.dtype.kind not in "biu":
            raise ValueError(
                "`rows` must be integers or truths in one list, got "
                f"{at.dtype}{list(at.shape)}."
            )
        if at.dtype == bool and len(at) != count:
            raise ValueError(
                f"`rows` must have one entry for each of {count} records, got {len(at)}."
            )
        outside = ((at < -count) | (at >= count)).sum() if at.dtype != bool else 0
        if outside:
            raise ValueError(
                f"`rows` must be places of {count} records, got {outside} beyond them."
            )
        return at

    def split(self, share: float, seed: int = 0) -> tuple[Table, Table]:
        """Divide records by their ids: those to train on, and those to hold out.

        On which side a record comes is a function of its id and the seed alone. So parties
        divide alike, each by itself, and a record that is added later moves no other.

        Args:
            share: of the records to hold out, above 0 and below 1, on average.
            seed: which of many such divisions.

        Returns:
            The two tables, in the order of this one.

        Raises:
            ValueError: if `share` is none, or one side would be empty.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"patient": range(100), "x": range(100)}, "patient")
            >>> [len(part) for part in table.split(0.2)]
            [83, 17]
        """
        if not 0 < share < 1:
            raise ValueError(
                f"`share` must be above 0 and below 1, got {shown(share)}."
            )
        key = str(int(seed)).encode()
        drawn = [
            int.from_bytes(blake2b(name, digest_size=8, key=key).digest(), "big")
            for name in bytes_of(self.ids)
        ]
        held = np.array([x < share * _PARTS for x in drawn], bool)
        if held.all() or not held.any():
            raise ValueError(
                f"`share` of {share:g} leaves one side of {len(self)} records empty; take "
                "another one, or another seed."
            )
        return self.take(~held), self.take(held)


def records(
    frame: Foreign,
    id: str | Iterable[Id],
    columns: Sequence[str] | None = None,
) -> Table:
    """Read a party's table: which records it has, by id, and what it knows of each.

    Tables of several parties are brought into one order by `jsplit.align`; numbers to train
    on are made of their columns by `jsplit.preprocessing`.

    Args:
        frame: a DataFrame of pandas or polars, a structured array of NumPy, or a
            dictionary of columns: arrays or lists, one entry for each record; an array
            [record, ...] of numbers, as images, is a column too.
        id: the column that says whose a record is, or the index of that name of a pandas
            table; or the ids themselves. Text in Unicode's normal form NFC, or
            integers: those that a table has as floats, 5.0, are integers.
        columns: which to take; by default all but the ids.

    Returns:
        The table, in the order of its rows.

    Raises:
        ValueError: if an id is missing, is there twice, has spaces around it, or some are
            text and some are integers; if a column is neither numbers nor text; if there
            are no records; if columns or ids have rows with other labels (`index`) than
            others. It gives counts, and no id or value.

    Example:
        >>> import jsplit
        >>> frame = {"patient": ["p2", "p1"], "age": [61, None], "ward": ["A", "B"]}
        >>> table = jsplit.records(frame, id="patient")
        >>> table.column("ward").tolist()
        ['A', 'B']
        >>> jsplit.records({"patient": ["p1", "p1"]}, id="patient")
        Traceback (most recent call last):
            ...
        ValueError: `id` of 2 records: 1 are there more than once. Bring one row of each, ...
    """
    found = columns_of_frame(frame)
    given: Foreign = id
    if isinstance(id, str):
        index = getattr(frame, "index", None)
        if id in found:
            given = found.pop(id)
        elif index is not None and getattr(index, "name", None) == id:
            given = [*index]
        else:
            raise ValueError(
                f"`id` must be one of the columns {', '.join(found) or '(none)'}, got {id!r}."
            )
    check_rows_of(found, given)
    whose = Whose(_checked_ids(as_entries("id", given)))
    wanted = [*found] if columns is None else [*columns]
    if strange := [name for name in wanted if name not in found]:
        raise ValueError(
            f"`columns` must be among {', '.join(found) or '(none)'}, got {shown(strange)}."
        )
    taken = {name: found[name] for name in wanted}
    check_whose(taken, whose)
    read = {name: read_column(name, x, len(whose.ids)) for name, x in taken.items()}
    return Table(MappingProxyType(read), whose)


def _checked_ids(given: list[Foreign]) -> list[Id]:
    """Ids of one kind: text, or Python's integers.

    Raises:
        ValueError: with counts, and what to do.
    """
    count = len(given)
    if not count:
        raise ValueError("`frame` must have at least one record, got none.")
    written = sum(isinstance(x, str) and x in _WRITTEN for x in given)
    if missing := sum(map(is_missing, given)) + written:
        raise ValueError(
            f"`id` of {count} records: {missing} are missing. Leave these records out, or "
            "find out whose they are."
        )
    ids = listed("id", given)
    text = sum(isinstance(x, str) for x in ids)
    if 0 < text < count:
        raise ValueError(
            f"`id` of {count} records: {text} are text and {count - text} are numbers, and "
            "'5' is another id than 5. Make one kind of them, as by `str`."
        )
    if spaced := sum(isinstance(x, str) and x != x.strip() for x in ids):
        raise ValueError(
            f"`id` of {count} records: {spaced} have spaces around them, so they are no "
            "other table's. Take these off, as by `str.strip`."
        )
    if truths := sum(isinstance(x, (bool, np.bool_)) for x in ids):
        raise ValueError(f"`id` of {count} records: {truths} are true or false.")
    try:
        bytes_of(ids, "id")
    except ValueError as error:
        said = str(error)
    else:
        return [str(x) if isinstance(x, str) else int(x) for x in ids]
    cure = "Bring one row of each, or make an id of record and visit."
    raise ValueError(f"{said} {cure}" if "more than once" in said else said)
