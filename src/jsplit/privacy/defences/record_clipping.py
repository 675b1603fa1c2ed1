"""A function whose pullback clips what each record adds to the gradient of its weights.

The clipped parts are whole multiples of one number and are added up as integers, so a sum
tells nothing of the order or the sizes of what is in it beyond itself.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import at_least_float32
from jsplit.core.trees import combine, inexact_part, is_floating
from jsplit.privacy.defences.records import norm

BITS = 14
"""The clip is at most 2**14 steps, so sums of 2**17 records are of 32 bits."""

_MOST_OF_A_SUM = (1 << 23) - 1
"""Steps; with as many of noise the sum of both is exact in float32."""


class Grid(NamedTuple):
    """The norm that a record's part of a gradient has at most, and what it is rounded to.

    Attributes:
        bound: of the L2 norm.
        step: a power of two of whose multiples the part is; 0: it is not rounded.
    """

    bound: float
    step: float

    def limit(self, numbers: int) -> float:
        """What a part is clipped to, before each of its numbers moves by half a step."""
        limit = self.bound - self.step * sqrt(numbers) / 2
        if limit < self.bound / 2:
            raise ValueError(
                f"`private` rounds to multiples of `clip` / 2**{BITS}, at which no "
                f"gradient of {numbers} parameters can be kept within its norm."
            )
        return limit


def clipped(one, grid: Grid):
    """A function of a batch whose pullback to `weights` clips the part of each record.

    Args:
        one: `one(weights, rest, shared, row)`, of one record.
        grid: the norm, and to what it is rounded.

    Returns:
        `function(weights, rest, shared, inputs)`, in which each record reads all of
        `shared` and its row of `inputs`.
    """

    def whole(weights: PyTree, rest: PyTree, shared: PyTree, inputs: PyTree) -> PyTree:
        return jax.vmap(one, (None, None, None, 0))(weights, rest, shared, inputs)

    function = jax.custom_vjp(whole)

    def forward(weights: PyTree, rest: PyTree, shared: PyTree, inputs: PyTree):
        value = whole(weights, rest, shared, inputs)
        return value, (weights, rest, shared, inputs)

    def back(held, cotangents: PyTree):
        weights, rest, shared, inputs = held

        def part(row: PyTree, cotangent: PyTree):
            def fn(weights: PyTree, *floating: PyTree) -> PyTree:
                now = map(combine, (shared, row), floating)
                return inexact_part(one(weights, rest, *now))

            _, pull = jax.vjp(fn, weights, inexact_part(shared), inexact_part(row))
            gradient, *of_inputs = pull(cotangent)
            return _shortened(gradient, grid), *of_inputs

        # Integers have no cotangents that could be mapped over.
        floating = jax.tree.map(
            lambda x: x if is_floating(x) else None, _numbers(cotangents)
        )
        gradients, of_shared, of_inputs = jax.vmap(part)(inputs, floating)
        total = jax.tree.map(lambda g: _summed(g, grid.step), gradients)
        of_shared = jax.tree.map(lambda g: g.sum(0), of_shared)
        # Of the parameters beside the weights, and of integers, there is none.
        return total, None, *map(_completed, (shared, inputs), (of_shared, of_inputs))

    function.defvjp(forward, back)
    return function


def _shortened(gradient: PyTree, grid: Grid) -> PyTree:
    """One record's part of the gradient, clipped; where it is rounded, in steps."""
    if grid.bound == inf:
        return gradient
    leaves = jax.tree.leaves(gradient)
    limit = grid.limit(sum(g.size for g in leaves))
    long = norm([g.astype(at_least_float32(g.dtype)) for g in leaves])
    # A product with 1 keeps all bits of what is short enough.
    factor = jnp.where(long > limit, limit / long, 1)

    def short(g: jax.Array) -> jax.Array:
        return jnp.round(g * factor / grid.step) if grid.step else g * factor

    return jax.tree.map(lambda g: short(g).astype(g.dtype), gradient)


def _summed(parts: jax.Array, step: float) -> jax.Array:
    """The sum over the records, [records, ...], exact if they are in steps."""
    if not step:
        return jnp.sum(parts, 0)
    if len(parts) >= 1 << (31 - BITS):
        raise ValueError(
            f"`private` sums at most {(1 << (31 - BITS)) - 1} records exactly, got "
            f"{len(parts)}."
        )
    total = jnp.sum(parts.astype(jnp.int32), 0)
    # Two sums that are cut off are no further apart than they were.
    cut = jnp.clip(total, -_MOST_OF_A_SUM, _MOST_OF_A_SUM).astype(parts.dtype) * step
    # Integers have no NaN, and a fault must be seen.
    return jnp.where(jnp.isfinite(parts).all(0), cut, jnp.nan)


def _numbers(cotangents: PyTree) -> PyTree:
    """Cotangents with `None` in the place of those of integers."""
    return jax.tree.map(
        lambda x: None if x.dtype == jax.dtypes.float0 else x, cotangents
    )


def _completed(inputs: PyTree, found: PyTree) -> PyTree:
    """Cotangents of inputs, in their structure."""
    leaves, structure = jax.tree.flatten(inputs)
    parts = structure.flatten_up_to(found)
    return structure.unflatten(
        jnp.zeros(x.shape, jax.dtypes.float0) if p is None else p
        for x, p in zip(leaves, parts, strict=True)
    )
