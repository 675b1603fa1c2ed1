"""An example of weight 0 is left out, whatever it holds.

Zeros stand in the place of its fields wherever they are read, and of its loss. A
product with 0 would not do: it keeps NaN and infinity, in the loss and again in
every backward product.
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


def zeros_for_left_out(weight: jax.Array | None, tree: PyTree) -> PyTree:
    """A field, or what a loss gives for each example, with zeros for what is left out.

    Args:
        weight: how much each example counts, [batch]; `None`: all count alike.
        tree: of arrays [batch, ...].

    Returns:
        The tree; without weights the very same, so that whoever compares by identity
        finds it again.
    """
    if weight is None:
        return tree

    def zeroed(x: jax.Array) -> jax.Array:
        counts = (weight != 0).reshape(-1, *[1] * (jnp.ndim(x) - 1))
        return jnp.where(counts, x, jnp.zeros((), jnp.result_type(x)))

    return jax.tree.map(zeroed, tree)


def fields_for(
    weight: jax.Array | None,
    names: Iterable[str],
    values: Sequence[PyTree],
    fields: Sequence[str],
) -> list[PyTree]:
    """What a node or loss reads, with zeros in its fields for what is left out.

    Args:
        weight: as above.
        names: of what it reads.
        values: what it reads, in the same order.
        fields: which names are fields; all else was computed from fields with zeros
            for what is left out.

    Returns:
        The values.
    """
    return [
        zeros_for_left_out(weight, x) if name in fields else x
        for name, x in zip(names, values, strict=True)
    ]
