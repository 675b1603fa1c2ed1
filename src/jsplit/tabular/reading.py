"""Columns of a table as users bring it: numbers with NaN where one is missing, or text with `None`.

Nothing is imported for it. What is neither number nor text, and what is both, is refused
with counts and never with a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np

from jsplit.core.arrays import NUMPY, Foreign
from jsplit.core.checks import shown
from jsplit.core.foreign import as_array, is_table
from jsplit.core.identified import Identified, Whose
from jsplit.core.ids import as_entries
from jsplit.core.trees import check_same_records

_MASKED: type[Foreign] = np.ma.MaskedArray
_EXACT = 2**53  # beyond it a float of 64 bits does not hold every integer
_COLUMN = "the column `{}` of `frame`"
_OF_ABSENCE = ("NAType", "NaTType")  # pandas' own, which is not equal to itself


def columns_of_frame(frame: Foreign) -> dict[str, Foreign]:
    """The columns of a table by name, as they are.

    Args:
        frame: a DataFrame of pandas or polars, a structured array of NumPy, or a
            dictionary of columns.

    Returns:
        By name, in their order.

    Raises:
        ValueError: if it is none of these, or two columns have one name.
    """
    if isinstance(frame, Mapping) or is_table(frame):
        keys = [*(frame if isinstance(frame, Mapping) else frame.columns)]
        # The number 1 and the text "1" are two keys, and one name.
        if twice := len(keys) - len({str(key) for key in keys}):
            raise ValueError(
                f"`frame` must have one name for each column, got {twice} of "
                f"{len(keys)} more than once."
            )
        return {str(key): frame[key] for key in keys}
    if isinstance(frame, NUMPY) and frame.dtype.names:
        return {name: frame[name] for name in frame.dtype.names}
    raise ValueError(
        "`frame` must be a table of pandas or polars, a structured array or a dictionary "
        f"of columns, got {type(frame).__name__}."
    )


def check_rows_of(columns: Mapping[str, Foreign], given: Foreign) -> None:
    """Refuse columns and ids whose rows have other labels, as of two tables of pandas.

    Args:
        columns: by name, as they are.
        given: the ids, as they were given.

    Raises:
        ValueError: naming two of them, and no label.
    """
    check_same_records(columns, _COLUMN)
    beside = {n: x for n, x in columns.items() if n != "id"}
    check_same_records({"id": given, **beside}, _COLUMN)


def check_whose(columns: Mapping[str, Foreign], whose: Whose) -> None:
    """Refuse columns of another table of ours that are of other records.

    Raises:
        ValueError: naming the column.
    """
    for name, column in columns.items():
        if isinstance(column, Identified) and not column.whose.same(whose):
            raise ValueError(
                f"{_COLUMN.format(name)} is of other records than `id` says, or of the "
                "same in another order; `jsplit.align` brings tables into one order."
            )


def read_column(name: str, column: Foreign, count: int) -> np.ndarray:
    """One column, checked.

    Args:
        name: for the error.
        column: an array, a column of a table, or a list.
        count: how many records there are.

    Returns:
        int64 or float64 [count], NaN where a value is missing; or objects [count], text
        and `None`; or an array [count, ...] of numbers as it is.

    Raises:
        ValueError: naming the column, with counts.
    """
    place = _COLUMN.format(name)
    # Of whatever package an array is; a column of a table that has two axes is one of
    # a name that there is twice.
    if len(getattr(column, "shape", ())) > 1 and not is_table(column):
        found = np.asarray(as_array(place, column))
    else:
        found = _of_entries(place, _entries(name, column))
    if len(found) != count:
        raise ValueError(f"{place} has {len(found)} entries for {count} records.")
    return found


def _entries(name: str, column: Foreign) -> Foreign:
    """An array of numbers as it is; anything else one by one."""
    plain = isinstance(column, NUMPY) and not isinstance(column, _MASKED)
    if plain and column.dtype.kind in "biuf":
        return column
    if isinstance(column, _MASKED):
        # What lies under a mask is anything at all.
        under = np.ma.getmaskarray(column)
        return [None if m else x for x, m in zip(column.data, under, strict=True)]
    # A dtype of NumPy's own that holds numbers is read at once, which is faster.
    if hasattr(column, "to_numpy") and isinstance(
        getattr(column, "dtype", None), np.dtype
    ):
        values = np.asarray(column.to_numpy())
        if values.ndim == 1 and values.dtype.kind in "biuf":
            return values
    return as_entries(f"frame[{name}]", column)


def _of_entries(place: str, entries: Foreign) -> np.ndarray:
    if isinstance(entries, NUMPY):
        kept = np.int64 if entries.dtype.kind in "biu" else np.float64
        return _as_kind(place, entries, kept)
    missing = np.array([is_missing(x) for x in entries], bool)
    there = [x for x, m in zip(entries, missing, strict=True) if not m]
    text = sum(isinstance(x, str) for x in there)
    numbers = sum(_is_number(x) for x in there)
    if other := len(there) - text - numbers:
        kinds = shown(sorted({type(x).__name__ for x in there if not _is_known(x)}))
        raise ValueError(
            f"{place} has {other} of {len(entries)} entries that are neither numbers nor "
            f"text, but {kinds}; make numbers of them, as days since a date."
        )
    if text and numbers:
        raise ValueError(
            f"{place} has {text} entries that are text and {numbers} that are numbers; "
            "make one kind of them, as text that is no number a missing one."
        )
    if text:
        found = np.full(len(entries), None, object)
        found[~missing] = [str(x) for x in there]
        return found
    # Integers stay exact where none is missing: they may be codes of categories.
    whole = all(hasattr(x, "__index__") for x in there) and len(there) == len(entries)
    if whole and there:
        return _as_kind(place, np.array(there, object), np.int64)
    for x in there:
        if hasattr(x, "__index__") and abs(int(x)) > _EXACT:
            raise ValueError(
                f"{place} has missing values, and integers that a float of 64 bits does "
                "not hold; make text or smaller numbers of them."
            )
    found = np.full(len(entries), np.nan)
    found[~missing] = [float(x) for x in there]
    return found


def _as_kind(place: str, values: np.ndarray, kind: type[np.generic]) -> np.ndarray:
    # NumPy makes negative numbers of what is too large for a sign.
    if values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise ValueError(f"{place} does not fit into {np.dtype(kind)} (OverflowError).")
    try:
        return values.astype(kind)
    except (OverflowError, TypeError, ValueError) as error:
        raised = type(error).__name__
    # Outside of `except`: what was raised may quote a value.
    raise ValueError(f"{place} does not fit into {np.dtype(kind)} ({raised}).")


def is_missing(x: Foreign) -> bool:
    """Whether an entry stands for none: `None`, NaN, pandas' `NA` and `NaT`."""
    if x is None or type(x).__name__ in _OF_ABSENCE:
        return True
    return isinstance(x, (float, np.floating)) and bool(np.isnan(x))


def _is_number(x: Foreign) -> bool:
    # To NumPy a time span is an integer.
    other = isinstance(x, (np.complexfloating, np.timedelta64))
    return not other and isinstance(x, (bool, int, float, np.bool_, np.number, Decimal))


def _is_known(x: Foreign) -> bool:
    return isinstance(x, str) or _is_number(x)
