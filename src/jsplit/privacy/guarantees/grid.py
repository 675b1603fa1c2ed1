"""Values and noise on a grid: without low bits that tell which value is under the noise.

Numbers of 32 bits that are added to noise of 32 bits give sums that are possible with
one value and not with another. Whole multiples of one power of two do not.
"""

from __future__ import annotations

from math import frexp

import jax
import jax.numpy as jnp

from jsplit.core.checks import shown

_MOST = (1 << 22) - 1
"""Multiples of noise; with as many of values the sums are exact in float32."""

_SMALLEST = 100
"""Powers of two from so far below 1 to so far above: normal numbers of float32."""

_FARTHEST = 11.0
"""In deviations: the largest number of `jax.random.normal` is 5.5, four give half of 4."""


def on_grid(value: jax.Array, grid: float) -> jax.Array:
    """A value rounded toward zero to whole multiples of a power of two.

    No number gets larger, so a vector that was clipped is within its norm still.

    Args:
        value: numbers; those of more than 2**22 multiples become so many.
        grid: the power of two (`Mechanism.grid` times `clip`).

    Returns:
        Multiples, float32.

    Raises:
        ValueError: if `grid` is no power of two.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.privacy import on_grid
        >>> [float(x) for x in on_grid(jnp.array([0.7, -0.7]), 0.5)]
        [0.5, -0.5]
    """
    _check(grid)
    many = jnp.trunc(jnp.asarray(value, jnp.float32) / grid)
    return jnp.clip(many, -_MOST, _MOST) * grid


def grid_noise(
    key: jax.Array, like: jax.Array, deviation: jax.Array | float, grid: float
) -> jax.Array:
    """Gaussian noise rounded to whole multiples of a power of two.

    Added to a value on the same grid it gives what rounding their sum would give, so it
    guarantees what noise that is not rounded does in theory. Each number is of four
    normal ones: those of a single one are too few, and can be told from each other.

    Args:
        key: that only the sender has.
        like: an array whose shape it has.
        deviation: of the noise, less than 2**22 / 11 multiples.
        grid: the power of two (`Mechanism.grid` times `clip`).

    Returns:
        Noise, float32.

    Raises:
        ValueError: if `grid` is no power of two, or `deviation` too large for it.

    References:
        Mironov, On significance of the least significant bits for differential privacy,
        2012; Holohan & Braghin, `Secure random sampling in differential privacy
        <https://arxiv.org/abs/2107.10138>`_, 2021.

    Example:
        >>> import jax
        >>> from jsplit.privacy import grid_noise
        >>> noise = grid_noise(jax.random.key(0), jax.numpy.zeros(100), 20.0, 2**-12)
        >>> bool((noise * 2**12 % 1 == 0).all())
        True
    """
    _check(grid)
    # One that is set later may be traced, and no number yet.
    known = isinstance(deviation, float | int)
    if known and not 0 <= float(deviation) * _FARTHEST < _MOST * grid:
        raise ValueError(
            f"`deviation` must be at least 0 and below {_MOST * grid / _FARTHEST:g}, as "
            f"`grid` is {grid:g}, got {shown(deviation)}."
        )
    four = jax.random.normal(key, (4, *jnp.shape(like)), jnp.float32)
    many = jnp.round(four.sum(0) * (jnp.asarray(deviation, jnp.float32) / (2 * grid)))
    # Out of reach, but for a deviation that is set too large in a compiled step: then
    # nothing is sent that is a number.
    return jnp.where(jnp.abs(many) <= _MOST, many, jnp.nan) * grid


def unfit(grid: float, deviation: float) -> str | None:
    """Why sums on a grid cannot be exact in float32, or `None` if they can.

    Args:
        grid: of values and noise, a power of two up to rounding of what it is given by.
        deviation: of Gaussian noise; 0 of any other, whose reach is not known.
    """
    part, exponent = frexp(grid)
    power = min(part - 0.5, 1 - part) <= 1e-9 * part
    if not power or not -_SMALLEST <= exponent - (part > 0.75) <= _SMALLEST:
        return "has a grid that is no power of two, on which sums are not exact"
    if deviation * _FARTHEST >= _MOST * grid:
        return "has a grid too fine for its noise: sums in 32 bits are not exact on it"
    return None


def _check(grid: float) -> None:
    power = isinstance(grid, float | int) and 0 < grid < float("inf")
    if (
        not power
        or frexp(grid)[0] != 0.5
        or not -_SMALLEST <= frexp(grid)[1] <= _SMALLEST
    ):
        raise ValueError(f"`grid` must be a power of two, got {shown(grid)}.")
