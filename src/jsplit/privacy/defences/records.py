"""A value as one vector for each record, and back; and the checks that all defences share.

Norms and noise are of a record's whole vector, whatever arrays it lies in.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from numbers import Real

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.finite import at_least_float32
from jsplit.core.powers import exponent_of, times_power
from jsplit.core.strength import Strength
from jsplit.core.trees import is_floating


def vectors(value: PyTree, defence: str) -> jax.Array:
    """All numbers of each record side by side, float32 at least, [records, numbers].

    Args:
        value: arrays [records, ...].
        defence: whose name an error says.

    Raises:
        ValueError: if an array is not floating, which noise would leave as it is, or
            they have no common first axis of records.
    """
    leaves = jax.tree.leaves(value)
    for x in leaves:
        # In silence it would cross as it is, beside noise that protects the rest.
        if not is_floating(x):
            raise ValueError(
                f"`{defence}` is of floating arrays; what crosses holds one of "
                f"{jnp.result_type(x)}."
            )
    if (
        not leaves
        or {x.ndim for x in leaves} & {0}
        or len({len(x) for x in leaves}) > 1
    ):
        shapes = " and ".join(str(x.shape) for x in leaves) or "nothing"
        raise ValueError(
            f"`{defence}` is of arrays with the same records along their first axis; "
            f"what crosses is {shapes}."
        )
    rows = [x.reshape(len(x), -1).astype(at_least_float32(x.dtype)) for x in leaves]
    return jnp.concatenate(rows, axis=1)


def arrays(rows: jax.Array, like: PyTree) -> PyTree:
    """The inverse of `vectors`, in the shapes and dtypes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for x in leaves:
        end = start + x.size // max(len(x), 1)
        found.append(rows[:, start:end].reshape(x.shape).astype(x.dtype))
        start = end
    return structure.unflatten(found)


def norms(rows: jax.Array) -> jax.Array:
    """The L2 norm of each record, [records, 1], whatever its size."""
    return jax.vmap(lambda row: norm([row]))(rows)[:, None]


def norm(parts: Sequence[jax.Array]) -> jax.Array:
    """The L2 norm of all numbers of some arrays, whatever their size.

    Args:
        parts: at least one array, float32 at least.
    """
    # Squares of small numbers are 0 and those of large ones infinite: what has no norm is
    # neither clipped nor hidden. In units of a power of two, which change no bit of others.
    largest = [jnp.max(jnp.abs(x), initial=0) for x in parts]
    unit = exponent_of(jnp.stack(largest))
    squares = [jnp.sum(times_power(x, -unit) ** 2) for x in parts]
    return times_power(jnp.sqrt(sum(squares[1:], squares[0])), unit)


def checked_scale(name: str, scale: object) -> float | Strength:
    """A scale as a number or a strength.

    Raises:
        ValueError: if it is neither, negative or not finite.
    """
    if isinstance(scale, Strength):
        return scale
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise ValueError(
            f"`{name}` must be a number or a Strength, got {shown(scale)}."
        )
    if not 0 <= float(scale) or not isfinite(scale):
        raise ValueError(f"`{name}` must be finite and at least 0, got {shown(scale)}.")
    return float(scale)


def sent_as(payload: PyTree, like: PyTree) -> PyTree:
    """Decode what is sent as it is computed with: noise is not taken off."""
    return payload
