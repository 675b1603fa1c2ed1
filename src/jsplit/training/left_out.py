"""An example of weight 0 is left out, whatever it holds.

Examples that count stand in the place of its fields, and 0 in that of its loss. A product
with 0 would not do: it keeps NaN and infinity, in the loss and again in every backward
product. Nor would fields of zeros, at which a model may have no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.powers import exponent_of, times_power
from jsplit.core.trees import as_weight


class Filled(NamedTuple):
    """Weights of a batch in which rows of weight 0 hold examples that count elsewhere.

    So it is in rounds, where a client's own records fill up its batches. Nothing stands in
    the place of such rows.

    Attributes:
        weight: how much each example counts, [batch].
    """

    weight: jax.Array


def weights_of_round(weight: jax.Array) -> jax.Array:
    """Weights as a trainer's `step` takes them, of a batch of a round."""
    # A user gives arrays alone, and the signature is the user's.
    return cast(jax.Array, Filled(weight))


Weight = ArrayLike | Filled
"""How much each example counts, [batch]; of a user, or of a round."""


def array_of(weight: Weight) -> ArrayLike:
    """The weights alone."""
    return weight.weight if isinstance(weight, Filled) else weight


def as_checked(weight: Weight | None, batch: PyTree = None) -> ArrayLike | None:
    """Weights as an array, looked at; those of a round have been.

    Args:
        weight: of a batch.
        batch: its fields as they were given, which may say whose their rows are.
    """
    is_of_round = isinstance(weight, Filled)
    return cast(ArrayLike, weight) if is_of_round else as_weight(weight, batch)


class Weights(NamedTuple):
    """Weights of a batch, for losses that are means over it, and for sums.

    Attributes:
        normal: of mean 1, [batch] or, of its entries, [batch, time, ...].
        given: as they were given, of the same shape: in a sum an example counts the
            same whatever else is in its batch.
    """

    normal: jax.Array
    given: jax.Array


def normalise_weight(weight: Weight | None) -> Weights | None:
    """Scale the weights of examples, [batch, ...], to mean 1, and keep them as given.

    Then the mean over a batch of what is weighted so, or over its equal
    parts, is the weighted mean. What is 0 stays 0.
    """
    if weight is None:
        return None
    weight = given = jnp.asarray(array_of(weight), jnp.result_type(float))
    # By the largest first, since the sum of large ones may be infinite. All may be 0;
    # the inner `where` keeps the other branch from dividing by it.
    # By a power of two near it: of the largest itself the inverse may be too small to be
    # a number.
    weight = times_power(weight, -exponent_of(weight))
    whole = weight.sum()
    share = jnp.where(whole > 0, weight.size / jnp.where(whole > 0, whole, 1), 0)
    return Weights(weight * share, given)


def zeros_for_left_out(weight: jax.Array, result: jax.Array) -> jax.Array:
    """What a loss gives for each example, [batch, ...], with zeros for what is left out."""
    return jnp.where(spread(weight, result) != 0, result, 0)


def by_example(weight: jax.Array) -> jax.Array:
    """Weights of examples, [batch], from those of their entries, [batch, time, ...]."""
    return weight if weight.ndim == 1 else weight.reshape(len(weight), -1).mean(1)


def spread(weight: jax.Array, result: jax.Array) -> jax.Array:
    """Weights, [batch] or of entries, with axes of size 1 for those that only `result` has."""
    return weight.reshape(*weight.shape, *[1] * (result.ndim - weight.ndim))


def without_nonfinite(weight: jax.Array, tree: PyTree) -> PyTree:
    """A field of a loss, in which what is not finite is replaced where nothing counts.

    Of a row that counts, some entries may not, as the targets of time steps that are
    missing. A product with 0 would keep their NaN in gradients. All else stays: a loss
    may look at its neighbours.

    Args:
        weight: of the entries, [batch, time, ...].
        tree: arrays; those that have no such axes stay as they are.
    """

    def replaced(x: jax.Array) -> jax.Array:
        has = x.shape[: weight.ndim] == weight.shape
        if not has or not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        bad = (spread(weight, x) == 0) & ~jnp.isfinite(x)
        return jnp.where(bad, jnp.ones((), x.dtype), x)

    return jax.tree.map(replaced, tree)


def filled(weight: Weight | None, fields: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
    """The fields of a batch, with examples that count in the places of those left out.

    Those that count come again in their order, so that statistics over the batch, as
    BatchNorm's, are near to those of what counts.

    Args:
        weight: how much each example counts, [batch], or each of its entries,
            [batch, time]: it counts if any does; `None`: all alike.
        fields: by name, trees of arrays [batch, ...].

    Returns:
        The fields, whatever a row of weight 0 held the same; the very same if all count.
    """
    if weight is None or isinstance(weight, Filled):
        return fields
    counts = jnp.asarray(weight) != 0
    if counts.ndim > 1:
        counts = counts.any(tuple(range(1, counts.ndim)))
    rows = _cycle(counts)

    def replaced(x: jax.Array) -> jax.Array:
        # Where nothing counts at all there is no such row. At 1 most of what has a pole
        # at 0 has a gradient, and 0 is in every table.
        floating = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        none = jnp.asarray(1 if floating else 0, jnp.result_type(x))
        return jnp.where(counts.any(), jnp.asarray(x)[rows], none)

    return jax.tree.map(replaced, dict(fields))


# One program for all fields, where they are not filled within one: eagerly each operation
# would be a program.
fill = jax.jit(filled)


def _cycle(counts: jax.Array) -> jax.Array:
    """What counts stays in its place, and fills the others in its order, again and again."""
    places = jnp.arange(counts.size)
    # Those that count first, each kind in its order.
    order = jnp.argsort(~counts, stable=True)
    number = jnp.cumsum(~counts) - 1
    stand_in = order[number % jnp.maximum(counts.sum(), 1)]
    return jnp.where(counts, places, stand_in)
