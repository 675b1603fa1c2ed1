"""Coherence: whether the cotangents of all records point the same way.

An honest loss pulls records towards their labels, so one way and the other; who wants all
values to look like values of another model pushes them all alike.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.guarding.flattening import flat, in_scale


def coherence(cotangent: PyTree) -> jax.Array:
    """How alike the cotangents of records are: the mean product of two of them.

    The products are of different records only, so it is unbiased: 0 in the mean for
    cotangents that are independent with mean 0, 1 where all are the same. It is over the
    mean square norm, and does not depend on the scale.

    Of an honest server whose first layer is dense with a bias, the mean cotangent is
    `W @ b'`, where `W` are the weights of that layer and `b'` the gradient of its bias:
    so it falls to 0 as that bias is learned. It is large, and tells nothing, where the
    bias is far from learned: a regression whose labels are far from 0, a rare class and
    a slow optimizer, a first layer that is frozen or has no bias.

    Args:
        cotangent: [records, ...] floating, or a pytree of these.

    Returns:
        The coherence, float32 []; NaN of fewer than two records, or of zeros.

    Raises:
        ValueError: if there is no floating array, or they are of different records.

    References:
        The attack that it looks for is of Pasquini et al., `Unleashing the tiger
        <https://arxiv.org/abs/2012.02670>`_, 2021. The statistic is ours.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import coherence
        >>> round(float(coherence(jnp.ones((8, 3)))), 5), float(coherence(jnp.eye(4)))
        (1.0, 0.0)
    """
    rows = unit_rows(flat("cotangent", cotangent))
    return of_sum(rows.sum(0), jnp.float32(rows.shape[0]))


def one_way(coherence: jax.Array, of_directions: jax.Array) -> jax.Array:
    """How much all records are pushed one way: what of a cotangent alone is judged.

    It is the geometric mean of the coherence of cotangents and of that of their
    directions, each record's over its norm. An honest loss has the first near 0 once its
    bias is learned, the second where its classes are as frequent as one another; a critic
    that is winning has small cotangents at most records, and so little of the first,
    but nearly all of the second.

    Args:
        coherence: of the cotangents, float32 [].
        of_directions: of their directions, float32 [].

    Returns:
        A number from 0 to 1, float32 []; NaN if either is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import one_way
        >>> round(float(one_way(jnp.float32(0.04), jnp.float32(0.81))), 3)
        0.18
    """
    return jnp.sqrt(jnp.maximum(coherence, 0) * jnp.maximum(of_directions, 0))


def directions(rows: jax.Array) -> jax.Array:
    """Rows each over its own norm, [records, numbers]; zeros stay zeros."""
    norm = jnp.sqrt((rows**2).sum(1, keepdims=True))
    return rows / jnp.where(norm > 0, norm, 1.0)


def unit_rows(table: jax.Array, there: jax.Array | None = None) -> jax.Array:
    """Rows over their root mean square norm, [records, numbers]; NaN of zeros.

    Args:
        table: [records, numbers].
        there: which rows are counted, bool [records]; the others are zeros.
    """
    table = in_scale(table)
    records = table.shape[0] if there is None else there.sum()
    return table / jnp.sqrt((table**2).sum() / records)


def of_sum(total: jax.Array, records: jax.Array) -> jax.Array:
    """The coherence of rows of mean square norm 1, from their sum and their number."""
    # The square of the sum has each record by itself too, `records` in all. Directions
    # of which some are zeros have a little less; that is on the side of no alarm.
    pairs = records * (records - 1)
    return ((total**2).sum() - records) / jnp.where(pairs > 0, pairs, jnp.nan)
