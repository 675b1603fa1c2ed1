"""What users bring in the place of arrays, as arrays: tables, tensors, other byte orders.

Nothing is imported for it: what a thing can do tells what it is. What cannot
become an array without losing something is refused in one line, which names
the field, kinds and counts, and never a value: a log is no place for records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn, TypeAlias

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import asarray, from_dlpack

_CURE = "fill them, and give these examples a `weight` of 0, or say which by a field"

KEPT = frozenset(
    map(
        np.dtype,
        "bool int8 int16 int32 uint8 uint16 uint32 float16 float32 float64 "
        "complex64 complex128".split(),
    )
)
"""Dtypes, in this machine's byte order, that JAX takes as they are."""

# Not arrays, but what has been looked at: shapes stand for arrays, and Python's numbers
# are refused by whoever asks for the batch axis, who can say more.
_KNOWN = (jax.Array, jax.ShapeDtypeStruct, bool, int, float, complex)

# Objects of packages that this one does not know, asked for what they have.
Foreign: TypeAlias = PyTree

# Classes of NumPy under a type that a strict checker can follow: to it the dtype of
# what is narrowed to them would be unknown.
NUMPY: type[Foreign] = np.ndarray
_OF_NUMPY: tuple[type[Foreign], ...] = (np.ndarray, np.generic)
MASKED: type[Foreign] = np.ma.MaskedArray
_GENERIC: type[Foreign] = np.generic
_DTYPE: type[Foreign] = np.dtype


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
    found = x if isinstance(x, _OF_NUMPY) else _read(place, x)
    # A shape of another kind than JAX's own.
    if not isinstance(found, _OF_NUMPY):
        return found
    if isinstance(found, MASKED):
        found = unmasked(place, found)
    return _numbers(place, found)


def leaf_of_state(path: str, x: PyTree) -> PyTree:
    """A leaf of a state as a step would take it; a shape as it is.

    Args:
        path: where it lies, for the error.
        x: an array, or a number that the user has set by hand.

    Returns:
        An array of the dtype that a step would give it.

    Raises:
        ValueError: if it is no number.
    """
    if isinstance(x, (jax.Array, jax.ShapeDtypeStruct)):
        return x
    try:
        return asarray(x)
    except (TypeError, ValueError, OverflowError):
        kind = type(x).__name__
    raise ValueError(f"`{path}` of the state must be an array or a number, got {kind}.")


def unmasked(place: str, x: Foreign, cure: str = _CURE) -> np.ndarray:
    """The data of a masked array in which nothing is masked."""
    # What lies under a mask is anything at all, and JAX would compute with it.
    if count := int(np.ma.getmaskarray(x).sum()):
        raise ValueError(
            f"{place} is a masked array with {count} of {x.size} values masked; {cure}."
        )
    return np.asarray(x.data)


def is_exact(x: np.ndarray) -> bool:
    """Whether JAX keeps all values of an array: it takes 64-bit integers for 32-bit ones."""
    kept = jax.dtypes.canonicalize_dtype(x.dtype)
    if kept == x.dtype or x.dtype.kind not in "iu" or not x.size:
        return True
    limits = np.iinfo(kept)
    return bool(x.min() >= limits.min and x.max() <= limits.max)


def is_table(x: Foreign) -> bool:
    """Whether `x` is a table of columns, as a DataFrame is."""
    return hasattr(x, "dtypes") and len(getattr(x, "shape", ())) == 2


def columns_of(x: Foreign) -> Iterable[Foreign]:
    """The columns of a table, from the first to the last."""
    # By place: two columns may have one name.
    if hasattr(x, "iloc"):
        return [x.iloc[:, i] for i in range(x.shape[1])]
    return x.get_columns()


def _numbers(place: str, x: Foreign) -> np.ndarray:
    """An array of NumPy's own, checked."""
    dtype = x.dtype
    # "V" are the types of ml_dtypes, as bfloat16 is to NumPy, and structured ones too.
    if dtype.kind not in "biufcV" or dtype.type is np.void:
        _refuse_kind(place, dtype)
    # A `long double` is beyond what any device has.
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        x = x.astype(np.float64 if dtype.kind == "f" else np.complex128)
    elif not dtype.isnative:
        x = x.astype(dtype.newbyteorder("="))
    if not is_exact(x):
        kept = jax.dtypes.canonicalize_dtype(x.dtype)
        limits = np.iinfo(kept)
        outside = int(((x < limits.min) | (x > limits.max)).sum())
        raise ValueError(
            f"{place} holds {outside} integers of {x.dtype} that do not fit into "
            f"{kept}, which JAX makes of them; make floats or smaller numbers of them, "
            "or switch on `jax_enable_x64`."
        )
    # Scalars stay what they are. Of a subclass (`np.matrix`, a memory map) the plain
    # array: it reads the same memory.
    return x if isinstance(x, _GENERIC) else _of_any(x)


def _read(place: str, x: Foreign) -> Foreign:
    """What another package brings, as an array; a mere shape as it is."""
    if getattr(x, "is_sparse", False) is True or hasattr(x, "toarray"):
        raise ValueError(
            f"{place} is sparse, a {type(x).__name__}; make it dense, as by `.toarray()`."
        )
    if isinstance(x, (str, bytes)):
        _refuse_kind(place, x)
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
    _refuse_kind(place, x)


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
        found.append(_numbers(where, _of_column(where, column)))
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
        _refuse_kind(place, dtype)

    # NumPy knows no missing integer, and what stands in its place would be a number.
    missing = _called(place, x, _missing)
    if missing and not _is_float(dtype):
        raise ValueError(
            f"{place} has {missing} values missing, of {type(dtype).__name__}; {_CURE}."
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


def _refuse_kind(place: str, x: Foreign) -> NoReturn:
    kind = type(x).__name__
    # A dtype of NumPy's own has no value of a record in its text; others may list
    # categories.
    if isinstance(x, _DTYPE) and x.kind in "OSUMm":
        kind = str(x)
    raise ValueError(
        f"{place} must hold numbers, got {kind}; make numbers of it, as codes of "
        "categories."
    )
