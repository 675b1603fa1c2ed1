"""Averages over clients, each by its share: sums that grow client by client, or by several at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def nothing_yet(x: jax.Array) -> jax.Array:
    return (
        jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
        if jnp.issubdtype(x.dtype, jnp.inexact)
        else x
    )


def add_share(share: Any, so_far: jax.Array, x: jax.Array) -> jax.Array:
    """The sum with `share` times one client's array, or several clients'; of what has no average, the last that counts."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        share, x = jnp.atleast_1d(share), x if jnp.ndim(share) else x[None]
        last = jnp.max(jnp.where(share > 0, jnp.arange(len(share)), -1))
        return jnp.where(last >= 0, x[last], so_far)
    return so_far + jnp.tensordot(
        jnp.asarray(share, so_far.dtype), x.astype(so_far.dtype), axes=jnp.ndim(share)
    )


def mean_of(total: Any, before: jax.Array, sums: jax.Array) -> jax.Array:
    """The average of a round, or what was before where nobody finished."""
    if not jnp.issubdtype(before.dtype, jnp.inexact):
        return sums
    return jnp.where(total > 0, sums / jnp.where(total > 0, total, 1), before).astype(
        before.dtype
    )
