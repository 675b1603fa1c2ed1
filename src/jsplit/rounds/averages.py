"""Averages over clients, each by its share: sums that grow client by client, or by several at once.

What has no mean, integers and keys, is taken from the last client that
counts.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree


def zero_sums(tree: PyTree) -> PyTree:
    """Return the sums before the first client, of the shapes of `tree`."""
    return jax.tree.map(_zero_sum, tree)


def add_clients(sums: PyTree, trees: PyTree, share: jax.Array) -> PyTree:
    """Add `share` times the arrays of one client, or of several, to the sums.

    Args:
        sums: as from `zero_sums`.
        trees: arrays of one client, or of several along a leading axis.
        share: weight of the client, [], or of each of several, [clients].

    Returns:
        The new sums.
    """
    return jax.tree.map(partial(_add_shares, share), sums, trees)


def mean_of(sums: PyTree, total: jax.Array, previous: PyTree) -> PyTree:
    """Divide the sums by the total of all shares; where that is 0, nothing changes.

    Args:
        sums: the sums over all clients.
        total: the sum of their shares, [].
        previous: what the clients started from, whose dtypes the mean has.

    Returns:
        The averages.
    """
    return jax.tree.map(partial(_mean, total), previous, sums)


def _has_mean(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _zero_sum(x: jax.Array) -> jax.Array:
    if not _has_mean(x):
        return x
    # At least float32: the sum of many clients loses digits in half
    # precision.
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))


def _add_shares(share: jax.Array, total: jax.Array, x: jax.Array) -> jax.Array:
    if _has_mean(x):
        share = share.astype(total.dtype)
        # One contraction over the clients, none of the shape of all their
        # parts.
        return total + jnp.tensordot(share, x.astype(total.dtype), axes=share.ndim)
    if not share.ndim:
        share, x = jnp.atleast_1d(share), x[None]
    # A client of share 0 failed before its first step, or fills up a
    # group.
    last = jnp.max(jnp.where(share > 0, jnp.arange(len(share)), -1))
    return jnp.where(last >= 0, x[last], total)


def _mean(total: jax.Array, previous: jax.Array, sums: jax.Array) -> jax.Array:
    if not _has_mean(previous):
        return sums
    # The divisor is made 1 as well: 0 / 0 would be computed, and be NaN
    # under `jax.debug_nans`, even where it is not taken.
    mean = sums / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, mean, previous).astype(previous.dtype)
