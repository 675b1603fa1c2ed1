"""Distances of all pairs of records, with a derivative wherever records are equal.

The root of 0 has no derivative, and a step that met one pair of equal records would be
NaN everywhere. So equal pairs are taken out before the root, and not only after it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.powers import exponent_of, times_power


def pairwise(x: jax.Array, exponent: float) -> jax.Array:
    """Euclidean distances of all pairs of records, to a power.

    Args:
        x: [records, numbers], floating.
        exponent: above 0, at most 2: 1 for distances, 2 for their squares.

    Returns:
        [records, records], 0 on the diagonal and for equal records, where the
        derivative is 0 too; in units of about the largest number that is there, since
        squares of cotangents of 1e-22 would all be 0, and those of 1e25 infinite.
    """
    # Before the mean: a sum of large numbers may be infinite as well.
    x = _of_size_1(x)
    # Distances do not change, and products lose fewer digits than about a far origin.
    x = x - jnp.mean(x, axis=0)
    # Once more: about a far origin little is left.
    x = _of_size_1(x)
    products = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.diagonal(products)
    both = norms[:, None] + norms[None]
    squares = both - 2 * products
    # A difference of nearly equal numbers is what rounding left of it: below this it
    # says "equal", and may be negative.
    equal = squares <= 8 * jnp.finfo(x.dtype).eps * both
    equal = equal | jnp.eye(len(x), dtype=bool)
    # 1 in their place before the power, whose derivative at 0 is infinite: a `where`
    # behind it alone would give 0 times infinity.
    safe = jnp.where(equal, 1, squares)
    if exponent == 2:
        powers = safe
    else:
        powers = jnp.sqrt(safe) if exponent == 1 else safe ** (exponent / 2)
    return jnp.where(equal, 0, powers)


def _of_size_1(x: jax.Array) -> jax.Array:
    """An array in units of a power of 2 at its largest number, so that nothing is rounded."""
    return times_power(x, -exponent_of(jax.lax.stop_gradient(x)))
