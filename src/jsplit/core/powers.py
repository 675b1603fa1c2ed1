"""Numbers in units of a power of two at the largest of them, in which squares are numbers too.

In 32 bits the square of what is below 1e-19 is 0, and of what is above 1e19 infinite.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def exponent_of(x: jax.Array) -> jax.Array:
    """The exponent of the least power of two above all numbers of an array; 0 if all are 0."""
    return jnp.frexp(jnp.max(jnp.abs(x), initial=0))[1]


def times_power(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """An array times `2**exponent`: no bit of it is rounded.

    Args:
        x: floating.
        exponent: of the power, which need be no number of this type.
    """
    # By a product of two numbers for all entries, which costs half of an `ldexp` of each;
    # and not by `exp2`, which rounds whole powers too.
    half, one = exponent // 2, jax.lax.full((), 1, x.dtype)
    return x * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)
