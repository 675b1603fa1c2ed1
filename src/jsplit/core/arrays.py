"""Which arrays JAX takes without losing anything, and how all others are refused.

In one line, which names the field, kinds and counts, and never a value: a log is
no place for records.
"""

from __future__ import annotations

from typing import NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import asarray, is_traced

CURE = "fill them, and give these examples a `weight` of 0, or say which by a field"

KEPT = frozenset(
    map(
        np.dtype,
        "bool int8 int16 int32 uint8 uint16 uint32 float16 float32 float64 "
        "complex64 complex128".split(),
    )
)
"""Dtypes, in this machine's byte order, that JAX takes as they are."""

# Objects of packages that this one does not know, asked for what they have.
Foreign: TypeAlias = PyTree

# Classes of NumPy under a type that a strict checker can follow: to it the dtype of
# what is narrowed to them would be unknown.
NUMPY: type[Foreign] = np.ndarray
OF_NUMPY: tuple[type[Foreign], ...] = (np.ndarray, np.generic)
MASKED: type[Foreign] = np.ma.MaskedArray
_GENERIC: type[Foreign] = np.generic
_DTYPE: type[Foreign] = np.dtype


def is_copy(one: PyTree, other: PyTree) -> bool:
    """Whether two leaves are the same array, or hold the same numbers, bit for bit."""
    if one is other:
        return True
    # What is traced, or a mere shape, has no numbers yet.
    plain = [isinstance(x, (jax.Array, np.ndarray)) for x in (one, other)]
    if not all(plain) or is_traced(one) or is_traced(other):
        return False
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if jnp.issubdtype(one.dtype, jax.dtypes.extended):
        return False
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


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


def unmasked(place: str, x: Foreign, cure: str = CURE) -> np.ndarray:
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


def checked_numbers(place: str, x: Foreign) -> np.ndarray:
    """An array of NumPy's own, checked."""
    dtype = x.dtype
    # "V" are the types of ml_dtypes, as bfloat16 is to NumPy, and structured ones too.
    is_number = dtype.kind in "biufc" or jnp.issubdtype(dtype, np.number)
    if not is_number or dtype.names is not None:
        refuse_kind(place, dtype)
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
    if isinstance(x, _GENERIC):
        return x
    plain: Foreign = np.asarray(x)
    return plain


def refuse_kind(place: str, x: Foreign) -> NoReturn:
    kind = type(x).__name__
    # A dtype of NumPy's own has no value of a record in its text; others may list
    # categories.
    if isinstance(x, _DTYPE) and x.kind in "OSUMm":
        kind = str(x)
    raise ValueError(
        f"{place} must hold numbers, got {kind}; make numbers of it, as codes of "
        "categories."
    )
