"""Averages over clients, each by its share: sums that grow client by client, or by several at once.

What has no mean is combined so that the order of the clients does not
matter: of integers the largest, of booleans whether any is true.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import at_least_float32
from jsplit.core.keys import is_key
from jsplit.core.typed_jax import wrap_key_data


def zero_sums(tree: PyTree) -> PyTree:
    """Return the sums before the first client, of the shapes of `tree`."""
    return jax.tree.map(_zero_sum, tree)


def add_clients(
    sums: PyTree, trees: PyTree, share: jax.Array, previous: PyTree
) -> PyTree:
    """Add `share` times the arrays of one client, or of several, to the sums.

    Args:
        sums: as from `zero_sums`.
        trees: arrays of one client, or of several along a leading axis.
        share: weight of the client, [], or of each of several, [clients].
        previous: what the clients started from.

    Returns:
        The new sums.
    """
    return jax.tree.map(partial(_add_shares, share), sums, trees, previous)


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


def _numbers(x: jax.Array) -> jax.Array:
    """Return an array as numbers that can be compared: a key as what it is made of."""
    return jax.random.key_data(x) if is_key(x) else x


def _zero_sum(x: jax.Array) -> jax.Array:
    if not _has_mean(x):
        return _least(_numbers(x))
    # At least float32: the sum of many clients loses digits in half
    # precision.
    return jnp.zeros(x.shape, at_least_float32(x.dtype))


def _least(x: jax.Array) -> jax.Array:
    """Return what every integer, or boolean, is at least."""
    # Not what the clients started from: a count may fall, as one that starts
    # again after every few steps does.
    least = False if x.dtype == bool else jnp.iinfo(x.dtype).min
    return jnp.full(x.shape, least, x.dtype)


def _add_shares(
    share: jax.Array, total: jax.Array, x: jax.Array, previous: jax.Array
) -> jax.Array:
    if not _has_mean(x):
        return _larger(share, total, _numbers(x))
    share, x = share.astype(total.dtype), x.astype(total.dtype)
    if not previous.ndim:
        # Of a number only what has changed is averaged: a learning rate that no
        # client changes stays as it was set, and is not rounded in every round.
        x = x - _where_finite(previous).astype(total.dtype)
    # A client that counts nothing may have anything, and 0 times infinity is NaN.
    if not share.ndim:
        return total + jnp.where(share > 0, share * x, 0)
    share = share.reshape(-1, *[1] * total.ndim)
    # One sum over the clients: nothing of the shape of all their parts is in memory.
    return total + jnp.where(share > 0, share * x, 0).sum(0)


def _where_finite(previous: jax.Array) -> jax.Array:
    """Return what is subtracted of a number, and added again: nothing of an infinite one."""
    # The best loss so far begins with infinity, of which nothing can be subtracted.
    return jnp.where(jnp.isfinite(previous), previous, 0)


def _larger(share: jax.Array, total: jax.Array, x: jax.Array) -> jax.Array:
    """Return the largest of what there was and of the clients that count."""
    if not share.ndim:
        share, x = jnp.atleast_1d(share), x[None]
    # A client of share 0 failed before its first step, or fills up a
    # group.
    counts = (share > 0).reshape(-1, *[1] * total.ndim)
    return jnp.maximum(total, jnp.where(counts, x, _least(total)).max(0))


def _mean(total: jax.Array, previous: jax.Array, sums: jax.Array) -> jax.Array:
    if not _has_mean(previous):
        found = jnp.where(total > 0, sums, _numbers(previous))
        if is_key(previous):
            return wrap_key_data(found, impl=jax.random.key_impl(previous))
        return found
    # The divisor is made 1 as well: 0 / 0 would be computed, and be NaN
    # under `jax.debug_nans`, even where it is not taken.
    mean = sums / jnp.where(total > 0, total, 1)
    if not previous.ndim:
        mean = _where_finite(previous).astype(mean.dtype) + mean
    return jnp.where(total > 0, mean, previous).astype(previous.dtype)
