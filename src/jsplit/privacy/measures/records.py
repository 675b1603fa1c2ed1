"""What measures are given: arrays with one row for each record, checked, and laid out flat.

A measure of a NaN would be a NaN, or, worse, a number; and of rows that are not paired it
would be chance. Both are refused here, without a word of what a record holds.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.keys import is_key
from jsplit.core.typed_jax import asarray, is_traced, key_data


def host_array(name: str, x: PyTree) -> np.ndarray:
    """One array [records, ...] of finite numbers, in NumPy and in 64 bits.

    Of what is ranked or counted: in 32 bits two scores that differ may be a tie, and
    large class numbers would be others.

    Args:
        name: of the argument, for the error.
        x: an array of numbers or booleans, of NumPy or JAX.

    Returns:
        The same as float64.

    Raises:
        ValueError: if it is no array of numbers, has no axis of records or no
            records, or holds NaN or infinity.
    """
    try:
        found = np.asarray(x)
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must be an array of numbers, got {shown(x)}."
        ) from None
    _refuse_kind(name, found)
    found = found.astype(np.float64)
    _refuse_nonfinite(name, found)
    return found


def array_of(name: str, x: PyTree) -> jax.Array:
    """The same as a floating array of JAX, of 32 bits at least; it may be traced.

    Args:
        name: of the argument, for the error.
        x: an array of numbers or booleans. What is traced is not looked into.

    Returns:
        [records, ...], floating.

    Raises:
        ValueError: as `host_array`.
    """
    # Integers of 64 bits would be cut to 32 by JAX; as floats they are rounded.
    found = x if isinstance(x, jax.Array) else asarray(host_array(name, x))
    _refuse_kind(name, found)
    # In 16 bits distances and squares of errors are too coarse to be measures.
    found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
    if not is_traced(found):
        _refuse_nonfinite(name, np.asarray(found))
    return found


def _refuse_kind(name: str, x: np.ndarray | jax.Array) -> None:
    real = jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool
    if not real or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"`{name}` must hold real numbers, got {x.dtype}.")
    if not x.ndim or not x.size:
        raise ValueError(f"`{name}` must have one row for each record, got {shown(x)}.")


def _refuse_nonfinite(name: str, x: np.ndarray) -> None:
    count = int((~np.isfinite(x.reshape(len(x), -1))).any(1).sum())
    if count:
        raise ValueError(
            f"`{name}` holds NaN or infinity in {count} of {len(x)} records."
        )


def flat(name: str, x: PyTree) -> jax.Array:
    """A value as one row of numbers for each record, in JAX; it may be traced.

    Args:
        name: of the argument, for the error.
        x: an array [records, ...], or a pytree of them, as a cut of several arrays
            gives it: these are put side by side.

    Returns:
        [records, numbers], floating.

    Raises:
        ValueError: as `host_array`; and if the arrays differ in their records.
    """
    leaves = [array_of(name, leaf) for leaf in jax.tree.leaves(x)]
    _same_records(name, leaves)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def host_flat(name: str, x: PyTree) -> np.ndarray:
    """The same in NumPy, in 64 bits.

    Args:
        name: of the argument, for the error.
        x: as of `flat`.

    Returns:
        [records, numbers], float64.

    Raises:
        ValueError: as `flat`.
    """
    leaves = [host_array(name, leaf) for leaf in jax.tree.leaves(x)]
    _same_records(name, leaves)
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _same_records(name: str, leaves: Sequence[Sized]) -> None:
    if len({len(leaf) for leaf in leaves}) != 1:
        sizes = ", ".join(str(len(leaf)) for leaf in leaves) or "no array"
        raise ValueError(
            f"`{name}` must have one row for each record in every array, got {sizes}."
        )


def paired(first: str, x: Sized, second: str, y: Sized) -> None:
    """Refuse two arrays that are not of the same records.

    Args:
        first: the name of `x`, for the error.
        x: [records, ...].
        second: the name of `y`.
        y: [records, ...].

    Raises:
        ValueError: if their numbers of records differ.
    """
    if len(x) != len(y):
        raise ValueError(
            f"`{first}` and `{second}` must be of the same records, got "
            f"{len(x)} and {len(y)}."
        )


def at_least(count: int, least: int, why: str) -> None:
    """Refuse to measure too few records.

    Args:
        count: how many there are.
        least: how many there must be.
        why: what needs them: "a distance correlation".

    Raises:
        ValueError: if there are fewer.
    """
    if count < least:
        raise ValueError(f"{why} needs at least {least} records, got {count}.")


def classes_of(name: str, x: PyTree) -> np.ndarray:
    """Classes, one for each record, on the host.

    Args:
        name: of the argument, for the error.
        x: [records] or [records, 1], integers or booleans, or floats that are
            whole numbers.

    Returns:
        [records], int64.

    Raises:
        ValueError: if it is anything else.
    """
    found = host_array(name, x)
    if found.size != len(found):
        raise ValueError(
            f"`{name}` must have one class for each record, got {shown(found)}."
        )
    if (found != np.rint(found)).any():
        raise ValueError(f"`{name}` must hold classes, whole numbers; got others.")
    return found.reshape(-1).astype(np.int64)


def generator(key: jax.Array) -> np.random.Generator:
    """NumPy's generator from a key of JAX: the same key, the same numbers.

    Draws on the host, where resampling and splits are; a key to each use, as in JAX.

    Args:
        key: a PRNG key, typed or raw.

    Returns:
        A generator that was seeded with the words of the key.

    Raises:
        ValueError: if it is no key.
    """
    words = key
    if isinstance(key, jax.Array) and is_key(key):
        words = key_data(key)
    words = np.asarray(words)
    if words.dtype != np.uint32 or words.ndim != 1:
        raise ValueError(f"`key` must be a PRNG key of JAX, got {shown(key)}.")
    return np.random.default_rng(words)
