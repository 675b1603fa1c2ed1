"""What users bring in the place of arrays, as arrays: tables, tensors, other byte orders.

Nothing is imported for it: what a thing can do tells what it is. What cannot
become an array without losing something is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from jsplit.core.arrays import (
    CURE,
    MASKED,
    OF_NUMPY,
    Foreign,
    checked_numbers,
    refuse_kind,
    unmasked,
)
from jsplit.core.base import PyTree
from jsplit.core.typed_jax import asarray, from_dlpack

# Not arrays, but what has been looked at: shapes stand for arrays, and Python's numbers
# are refused by whoever asks for the batch axis, who can say more.
_KNOWN = (jax.Array, jax.ShapeDtypeStruct, bool, int, float, complex)


def as_array(place: str, x: Foreign) -> PyTree:
    """One leaf of a field as an array that JAX takes without losing anything.

    Args:
        place: what an error calls it: "field `label` of the batch".
        x: an array, a table or its column, a tensor; or the shape of one.

    Returns:
        A NumPy or JAX array, [...]; a shape or a number of Python as it is.

    Raises:
        ValueError: if it holds no numbers, hides or lacks some, or holds
            integers that are too large for JAX. It names kinds and counts.
    """
    if isinstance(x, _KNOWN):
        return x
    found = x if isinstance(x, OF_NUMPY) else _read(place, x)
    # A shape of another kind than JAX's own.
    if not isinstance(found, OF_NUMPY):
        return found
    if isinstance(found, MASKED):
        found = unmasked(place, found)
    return checked_numbers(place, found)


def check_rows(fields: Mapping[str, PyTree], place: str) -> None:
    """Refuse tables whose rows have other labels, or the same in another order.

    Rows are taken by their place; pandas would pair them by their labels (`index`).

    Raises:
        ValueError: naming two fields, and no label.
    """
    first: tuple[str, Foreign] | None = None
    for name, value in fields.items():
        for x in jax.tree.leaves(value):
            # A list has an `index` too, and it is no labels.
            if not hasattr(getattr(x, "index", None), "equals"):
                continue
            if first is None:
                first = name, x.index
            elif len(first[1]) == len(x.index) and not first[1].equals(x.index):
                raise ValueError(
                    f"{place.format(name)} and `{first[0]}` have rows with other labels "
                    "(their `index`), so by place they may be of other records: bring "
                    "them in one order, as by `.loc`, or drop the labels by "
                    "`.reset_index(drop=True)` where they are in one."
                )


def is_table(x: Foreign) -> bool:
    """Whether `x` is a table of columns, as a DataFrame is."""
    return hasattr(x, "dtypes") and len(getattr(x, "shape", ())) == 2


def columns_of(x: Foreign) -> Iterable[Foreign]:
    """The columns of a table, from the first to the last."""
    # By place: two columns may have one name.
    if hasattr(x, "iloc"):
        return [x.iloc[:, i] for i in range(x.shape[1])]
    return x.get_columns()


def _read(place: str, x: Foreign) -> Foreign:
    """What another package brings, as an array; a mere shape as it is."""
    if getattr(x, "is_sparse", False) is True or hasattr(x, "toarray"):
        raise ValueError(
            f"{place} is sparse, a {type(x).__name__}; make it dense, as by `.toarray()`."
        )
    if isinstance(x, (str, bytes)):
        refuse_kind(place, x)
    if hasattr(x, "to_numpy"):
        return _of_table(place, x) if is_table(x) else _of_column(place, x)
    if hasattr(x, "detach"):
        return _called(place, x, _of_tensor)
    if hasattr(x, "__array__") or hasattr(x, "__array_interface__"):
        return _called(place, x, _of_any)
    if hasattr(x, "__jax_array__") or hasattr(x, "__dlpack__"):
        return _called(place, x, _of_buffer)
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return x
    refuse_kind(place, x)


def _of_any(x: Foreign) -> np.ndarray:
    return np.asarray(x)


def _of_tensor(x: Foreign) -> PyTree:
    # Nothing is differentiated through a field, and its numbers are on no device of
    # JAX's yet.
    x = x.detach().cpu()
    # A conjugate or a sign that torch has put off is no number in memory yet.
    for name in ("resolve_conj", "resolve_neg"):
        x = getattr(x, name)() if hasattr(x, name) else x
    try:
        return np.asarray(x.numpy())
    except TypeError:
        # NumPy has no bfloat16, and JAX has.
        return _of_buffer(x)


def _of_buffer(x: Foreign) -> jax.Array:
    taken = asarray(x) if hasattr(x, "__jax_array__") else from_dlpack(x)
    # A copy: whose memory it is may change it, and JAX's arrays never change.
    return asarray(taken, copy=True)


def _of_table(place: str, x: Foreign) -> np.ndarray:
    """A table as one array, [n, columns]."""
    kinds = {*x.dtypes}
    # Of one kind known to NumPy it is one array already, whatever its width.
    if len(kinds) == 1 and isinstance(next(iter(kinds)), np.dtype):
        return _called(place, x, _whole)
    found: list[Foreign] = []
    for number, column in enumerate(_called(place, x, columns_of), 1):
        # By number: names of columns may be taken from the data.
        where = f"{place}, in column {number} of {x.shape[1]},"
        found.append(checked_numbers(where, _of_column(where, column)))
    table: Foreign = np.stack(found, 1) if found else np.zeros(x.shape)
    for number, column in enumerate(found, 1):
        _check_joined(f"{place}, in column {number} of {x.shape[1]},", column, table)
    return table


def _check_joined(place: str, column: Foreign, table: Foreign) -> None:
    """Refuse integers that are rounded where they stand beside fractions."""
    kept = jax.dtypes.canonicalize_dtype(table.dtype)
    if column.dtype.kind not in "iu" or kept.kind != "f" or not column.size:
        return
    most = 2 ** (np.finfo(kept).nmant + 1)
    if column.max() > most or column.min() < -most:
        raise ValueError(
            f"{place} holds integers that {kept} rounds, which the table's other columns "
            "make of them; give them as a field of their own."
        )


def _whole(x: Foreign) -> np.ndarray:
    return np.asarray(x.to_numpy())


def _of_column(place: str, x: Foreign) -> np.ndarray:
    """A column, or anything else with `to_numpy`, as an array."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or isinstance(dtype, np.dtype):
        return _called(place, x, _whole)
    if not _is_numeric(dtype):
        refuse_kind(place, dtype)

    # NumPy knows no missing integer, and what stands in its place would be a number.
    missing = _called(place, x, _missing)
    if missing and not _is_float(dtype):
        raise ValueError(
            f"{place} has {missing} values missing, of {type(dtype).__name__}; {CURE}."
        )
    found = _called(place, x, _whole)
    if found.dtype == object:
        like = getattr(dtype, "numpy_dtype", np.dtype(float))
        filled = {"na_value": np.nan} if missing else {}
        found = _called(
            place, x, lambda x: np.asarray(x.to_numpy(dtype=like, **filled))
        )
    return found


def _is_numeric(dtype: Foreign) -> bool:
    """Whether a dtype that is none of NumPy's is one of numbers."""
    kind = getattr(dtype, "kind", None)
    if isinstance(kind, str):
        return kind in "biufc"
    is_numeric = getattr(dtype, "is_numeric", None)
    return str(dtype) == "Boolean" or (callable(is_numeric) and bool(is_numeric()))


def _is_float(dtype: Foreign) -> bool:
    kind = getattr(dtype, "kind", None)
    if isinstance(kind, str):
        return kind == "f"
    is_float = getattr(dtype, "is_float", None)
    return callable(is_float) and bool(is_float())


def _missing(x: Foreign) -> int:
    """How many values of a column are missing."""
    for name in ("isna", "is_null"):
        if hasattr(x, name):
            return int(np.asarray(getattr(x, name)()).sum())
    return 0


def _called(place: str, x: Foreign, read: Callable[[Foreign], Foreign]) -> Foreign:
    """What `read` makes of `x`; its errors are told by their kind alone."""
    # They may quote what could not be read. Raised outside of `except`, so that they
    # are not printed as what came before either.
    try:
        return read(x)
    except Exception as error:
        kind = type(error).__name__
    raise ValueError(
        f"{place} is a {type(x).__name__} that cannot be read as an array of numbers "
        f"({kind})."
    )
