"""An example of weight 0 is left out, whatever it holds.

Another example's fields stand in the place of its own wherever they are read, and 0 in that
of its loss. A product with 0 would not do: it keeps NaN and infinity, in the loss and again
in every backward product. Nor would fields of zeros, at which a model may have no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jsplit.core.base import PyTree


def normalise_weight(weight: ArrayLike | None) -> jax.Array | None:
    """Scale the weights of examples, [batch], to mean 1.

    Then the mean over a batch of what is weighted so, or over its equal
    parts, is the weighted mean. What is 0 stays 0.
    """
    if weight is None:
        return None
    weight = jnp.asarray(weight, jnp.result_type(float))
    whole = weight.sum()
    # All weights may be 0; the inner `where` keeps the other branch
    # from dividing by it.
    scale = jnp.where(whole > 0, weight.size / jnp.where(whole > 0, whole, 1), 0)
    return weight * scale


def zeros_for_left_out(weight: jax.Array, result: jax.Array) -> jax.Array:
    """What a loss gives for each example, [batch, ...], with zeros for what is left out."""
    return jnp.where(_shaped(weight != 0, result), result, 0)


def rows_for_left_out(weight: jax.Array, tree: PyTree) -> PyTree:
    """A field, with a row that counts in the place of each that is left out.

    Args:
        weight: how much each example counts, [batch].
        tree: of arrays [batch, ...].

    Returns:
        The tree: whatever a row of weight 0 held, the same.
    """
    counts, places = weight != 0, jnp.arange(weight.size)
    # The nearest before it, which in a batch of several clients is its own client's:
    # statistics of BatchNorm are of whatever stands there.
    before = jax.lax.cummax(jnp.where(counts, places, -1))
    rows = jnp.where(before < 0, jnp.argmax(counts), before)

    def replaced(x: jax.Array) -> jax.Array:
        # Where nothing counts, as in the last of micro-batches, there is no such row. At
        # 1 most of what has a pole at 0 has a gradient, and 0 is in every table.
        floating = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        none = jnp.asarray(1 if floating else 0, jnp.result_type(x))
        return jnp.where(counts.any(), jnp.asarray(x)[rows], none)

    return jax.tree.map(replaced, tree)


def _shaped(flags: jax.Array, x: jax.Array) -> jax.Array:
    """Flags of examples, [batch], to be broadcast over an array [batch, ...]."""
    return flags.reshape(-1, *[1] * (jnp.ndim(x) - 1))


def fields_for(
    weight: jax.Array | None,
    names: Iterable[str],
    values: Sequence[PyTree],
    fields: Sequence[str],
) -> list[PyTree]:
    """What a node or loss reads, with other rows in its fields for what is left out.

    Args:
        weight: how much each example counts, [batch]; `None`: all count alike.
        names: of what it reads.
        values: what it reads, in the same order.
        fields: which names are fields; all else was computed from fields that were
            replaced so.

    Returns:
        The values; without weights the very same, so that whoever compares by identity
        finds them again.
    """
    if weight is None:
        return list(values)
    return [
        rows_for_left_out(weight, x) if name in fields else x
        for name, x in zip(names, values, strict=True)
    ]
