"""What was learned of the training part, as plain numbers and names, and what it makes of a table.

JSON holds each to the bit, and NumPy alone applies it: who serves needs no scikit-learn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from jsplit.tabular.table import Table

Category: TypeAlias = str | int

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Codes: of a category that training has not, of a missing value, of the first that it has."""

_log = logging.getLogger("jsplit.records")


@dataclass(frozen=True)
class FittedNumbers:
    """Numbers as `(x - shift) / scale`, where `fill` stands for a missing one.

    Attributes:
        columns: their names.
        single: whether the field has no axis of columns.
        fill: of each; `None` where a missing value is refused.
        shift: of each.
        scale: of each, never 0.
        flagged: whether a flag says where each is missing.
        infinite: whether infinity counts as missing.
    """

    columns: tuple[str, ...]
    single: bool
    fill: tuple[float | None, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    flagged: tuple[bool, ...]
    infinite: bool

    @property
    def names(self) -> tuple[str, ...]:
        """What each column of the field is."""
        flags = [c for c, f in zip(self.columns, self.flagged, strict=True) if f]
        return (*self.columns, *(f"{column} is missing" for column in flags))

    def of(self, table: Table) -> np.ndarray:
        """float32 [record, columns and flags], or [record]."""
        x = numbers_of(table, self.columns, self.infinite)
        missing = np.isnan(x)
        self._check_missing(missing)
        fill = np.array([0.0 if v is None else v for v in self.fill])
        x = (np.where(missing, fill, x) - self.shift) / self.scale
        with np.errstate(over="ignore"):
            found = x.astype(np.float32)
        for column, wrong in zip(self.columns, ~np.isfinite(found).T, strict=True):
            if count := int(wrong.sum()):
                raise ValueError(
                    f"the column `{column}` has {count} of {len(x)} values that are too "
                    "large for float32 once they are scaled."
                )
        flags = missing[:, np.array(self.flagged, bool)].astype(np.float32)
        found = np.concatenate([found, flags], 1)
        return found[:, 0] if self.single else found

    def _check_missing(self, missing: np.ndarray) -> None:
        each = zip(self.columns, self.fill, self.flagged, missing.sum(0), strict=True)
        for column, fill, flagged, count in each:
            if count and fill is None:
                raise ValueError(
                    f"the column `{column}` has {count} of {len(missing)} values missing, "
                    "and `fill` is None."
                )
            # As mean as any other value to the model, which never saw one missing.
            if count and not flagged:
                _log.warning(
                    "the column `%s` has %d of %d values missing, which are filled "
                    "without a flag.",
                    column,
                    count,
                    len(missing),
                )


@dataclass(frozen=True)
class FittedCategories:
    """Categories by code, from 2 on in their order; 0 is another one, 1 is none.

    Attributes:
        columns: their names.
        single: whether the field has no axis of columns.
        known: of each column, the categories that have a code.
        one_hot: whether the field is one-hot.
    """

    columns: tuple[str, ...]
    single: bool
    known: tuple[tuple[Category, ...], ...]
    one_hot: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each column has: the rows of an embedding."""
        return tuple(FIRST + len(known) for known in self.known)

    @property
    def names(self) -> tuple[str, ...]:
        """What each column of the field is."""
        if not self.one_hot:
            return self.columns
        found: list[str] = []
        for column, known in zip(self.columns, self.known, strict=True):
            found += [f"{column} is unknown", f"{column} is missing"]
            found += [f"{column} is {x}" for x in known]
        return tuple(found)

    def of(self, table: Table) -> np.ndarray:
        """int32 [record, columns] or [record]; one-hot float32 [record, sizes]."""
        each = zip(self.columns, self.known, strict=True)
        codes = np.stack([self._codes(table, c, known) for c, known in each], 1)
        if self.one_hot:
            parts = [np.eye(n)[x] for n, x in zip(self.sizes, codes.T, strict=True)]
            return np.concatenate(parts, 1).astype(np.float32)
        return codes[:, 0] if self.single else codes

    def _codes(
        self, table: Table, column: str, known: Sequence[Category]
    ) -> np.ndarray:
        entries = categories_of(table, column)
        check_kind(column, entries, known)
        places = {x: FIRST + i for i, x in enumerate(known)}
        places_and_none: Mapping[Category | None, int] = {**places, None: MISSING}
        codes = np.array([places_and_none.get(x, UNKNOWN) for x in entries], np.int32)
        if other := int((codes == UNKNOWN).sum()):
            _log.info(
                "the column `%s` has %d of %d values that are seldom or not in the "
                "training part: code 0.",
                column,
                other,
                len(codes),
            )
        return codes


@dataclass(frozen=True)
class FittedLabels:
    """Classes by number, from 0 on in their order.

    Attributes:
        columns: the name of the one.
        classes: in their order.
    """

    columns: tuple[str, ...]
    classes: tuple[Category, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the field is."""
        return self.columns

    def of(self, table: Table) -> np.ndarray:
        """int32 [record]."""
        (column,) = self.columns
        entries = categories_of(table, column)
        check_kind(column, entries, self.classes)
        places = {x: i for i, x in enumerate(self.classes)}
        missing = sum(x is None for x in entries)
        other = sum(x is not None and x not in places for x in entries)
        if missing or other:
            raise ValueError(
                f"the label `{column}` of {len(entries)} records: {missing} are missing "
                f"and {other} are none of its {len(places)} classes; leave these out, by "
                "`take`, before tables are aligned."
            )
        return np.array([places[x] for x in entries if x is not None], np.int32)


Fitted: TypeAlias = FittedNumbers | FittedCategories | FittedLabels


def numbers_of(table: Table, columns: Sequence[str], infinite: bool) -> np.ndarray:
    """Columns of numbers, float64 [record, columns], NaN where one is missing.

    Args:
        table: that has them.
        columns: their names.
        infinite: whether infinity counts as missing; else it is refused.

    Raises:
        ValueError: naming the column, with counts.
    """
    found: list[np.ndarray] = []
    for name in columns:
        x = table.column(name)
        if x.ndim > 1:
            raise ValueError(
                f"the column `{name}` is an array of {list(x.shape[1:])} for each record, "
                f'which is a field as it is: `table["{name}"]`.'
            )
        if x.dtype == object:
            # A column in which all is missing, as text may be, says nothing of its kind.
            text = sum(entry is not None for entry in x)
            if text:
                raise ValueError(
                    f"the column `{name}` must hold numbers, and {text} of {len(x)} "
                    "entries are text; make numbers of it, or a category."
                )
            x = np.full(len(x), np.nan)
        x = np.asarray(x, np.float64)
        if count := int(np.isinf(x).sum()):
            if not infinite:
                raise ValueError(
                    f"the column `{name}` has {count} of {len(x)} values that are "
                    'infinite; mend them, or take them as missing: `infinite="missing"`.'
                )
            x = np.where(np.isinf(x), np.nan, x)
        found.append(x)
    return np.stack(found, 1)


def categories_of(table: Table, column: str) -> list[Category | None]:
    """A column of categories: text or integers, `None` where one is missing.

    Raises:
        ValueError: naming the column, if it has fractions.
    """
    x = table.column(column)
    if x.ndim > 1:
        raise ValueError(f"the column `{column}` is an array for each record.")
    if x.dtype == object:
        return x.tolist()
    # A table has integers as floats where one is missing.
    there = ~np.isnan(x) if x.dtype.kind == "f" else np.ones(len(x), bool)
    if odd := sum(not float(v).is_integer() for v in x[there]):
        raise ValueError(
            f"the column `{column}` has {odd} of {len(x)} values with fractions, which "
            "are no categories; make numbers of it, or bins."
        )
    return [int(v) if t else None for v, t in zip(x, there, strict=True)]


def check_kind(
    column: str, entries: Sequence[Category | None], known: Sequence[Category]
) -> None:
    """Refuse text where integers are known, and the other way round.

    Raises:
        ValueError: naming the column.
    """
    kinds = [
        {"text" if isinstance(x, str) else "integers" for x in xs if x is not None}
        for xs in (entries, known)
    ]
    # All would be unknown, in silence: "5" is another category than 5.
    if kinds[0] and kinds[1] and kinds[0] != kinds[1]:
        has, had = (" and ".join(sorted(kind)) for kind in kinds)
        raise ValueError(f"the column `{column}` must be {had}, as it was, got {has}.")
