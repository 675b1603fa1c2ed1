"""Values as one table, a row for each record: what the statistics of a guard are computed of."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.checks import shown


def flat(name: str, value: PyTree) -> jax.Array:
    """The floating arrays of a value side by side, float32 [records, numbers].

    Args:
        name: of the argument, for an error.
        value: arrays [records, ...].

    Raises:
        ValueError: if it has no floating array, or its arrays are not of the same
            records.
    """
    arrays = [jnp.asarray(x) for x in jax.tree.leaves(value)]
    # What is an integer or a boolean has no cotangent.
    arrays = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    sizes = {x.shape[0] if x.ndim else None for x in arrays}
    if len(sizes) != 1 or None in sizes:
        what = "none" if not arrays else ", ".join(str(x.shape) for x in arrays)
        raise ValueError(
            f"`{name}` must have floating arrays [records, ...] of the same records, "
            f"got {what} in {shown(value)}."
        )
    rows = [x.reshape(x.shape[0], -1).astype(jnp.float32) for x in arrays]
    return jnp.concatenate(rows, axis=1)


def in_scale(table: jax.Array) -> jax.Array:
    """A table over its largest number, so that no square of it is lost; zeros stay zeros."""
    largest = jnp.abs(table).max(initial=0.0)
    # A cotangent of 1e-25 is ordinary late in a training, and its square is 0. Of 1e38,
    # which a peer may send to be no number here, already the reciprocal is 0.
    nearer = jnp.where(largest > 1, 2.0**-64, 2.0**64)
    return (table * nearer) / jnp.where(largest > 0, largest * nearer, 1.0)
