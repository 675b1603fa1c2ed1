"""Values and noise on a grid: without low bits that tell which value is under the noise.

Numbers of 32 bits that are added to noise of 32 bits give sums that are possible with
one value and not with another. Whole multiples of one power of two do not.
"""

from __future__ import annotations

from math import frexp

import jax
import jax.numpy as jnp

from jsplit.core.checks import shown

_MOST = (1 << 23) - 1
"""Multiples of noise; with as many of values the sums are exact in float32."""

_SMALLEST = 100
"""Powers of two from so far below 1 to so far above: normal numbers of float32."""

_FARTHEST = 11.0
"""In deviations: the largest number of `jax.random.normal` is 5.5, four give half of 4."""

_LAPLACE_FARTHEST = 44.0
"""In units of b: beyond lies less than 2**-63 of Laplace noise."""


def on_grid(value: jax.Array, grid: float) -> jax.Array:
    """A value rounded toward zero to whole multiples of a power of two.

    No number gets larger, so a vector that was clipped is within its norm still. What
    is rounded to 0 is +0, so that its sign does not cross. NaN stays NaN.

    Args:
        value: numbers; those of more than 2**23 multiples become so many.
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
    return _one_zero(jnp.clip(many, -_MOST, _MOST)) * grid


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
        deviation: of the noise, less than 2**23 / 11 multiples.
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
    _check_width("deviation", deviation, grid, _FARTHEST)
    four = jax.random.normal(key, (4, *jnp.shape(like)), jnp.float32)
    many = jnp.round(four.sum(0) * (jnp.asarray(deviation, jnp.float32) / (2 * grid)))
    many = _one_zero(many)
    # Out of reach, but for a deviation that is set too large in a compiled step: then
    # nothing is sent that is a number.
    return jnp.where(jnp.abs(many) <= _MOST, many, jnp.nan) * grid


def _one_zero(many: jax.Array) -> jax.Array:
    """Numbers whose zeros are all +0."""
    # Rounding a small negative number gives -0, and -0 + -0 is -0: of a value that is
    # not negative no sum would be, so a single -0 would tell its sign for certain. A
    # sum with +0 says the same, and a compiler may drop it.
    return jnp.where(many == 0, jnp.float32(0), many)


def unfit(grid: float, deviation: float, b: float) -> str | None:
    """Why sums on a grid cannot be exact in float32, or `None` if they can.

    Args:
        grid: of values and noise, a power of two up to rounding of what it is given by.
        deviation: of Gaussian noise; 0 of any other.
        b: of Laplace noise; 0 of any other.
    """
    part, exponent = frexp(grid)
    power = min(part - 0.5, 1 - part) <= 1e-9 * part
    if not power or not -_SMALLEST <= exponent - (part > 0.75) <= _SMALLEST:
        return "has a grid that is no power of two, on which sums are not exact"
    if max(deviation * _FARTHEST, b * _LAPLACE_FARTHEST) >= _MOST * grid:
        return "has a grid too fine for its noise: sums in 32 bits are not exact on it"
    return None


def grid_laplace(
    key: jax.Array, like: jax.Array, b: jax.Array | float, grid: float
) -> jax.Array:
    """Laplace noise of whole multiples of a power of two, drawn digit by digit.

    The multiple k has a probability proportional to exp(-|k| grid / b), so between two
    values on the grid the odds of a sum are at most exp(distance / b), in the sum of
    absolute differences: what Laplace noise of real numbers gives, exactly. Of |k| each
    binary digit is an independent coin, and each coin is of 63 random bits or more: no
    logarithm of a float32, whose multiples have holes far from 0.

    Args:
        key: that only the sender has.
        like: an array whose shape it has.
        b: of the density exp(-|x| / b), less than 2**23 / 44 multiples.
        grid: the power of two (`Mechanism.grid` times `clip`).

    Returns:
        Noise, float32.

    Raises:
        ValueError: if `grid` is no power of two, or `b` too large for it.

    References:
        Ghosh, Roughgarden & Sundararajan, `Universally utility-maximizing privacy
        mechanisms <https://arxiv.org/abs/0811.2841>`_, 2009 (the distribution); Balcer &
        Vadhan, `Differential privacy on finite computers
        <https://arxiv.org/abs/1709.05396>`_, 2018 (why it is drawn of whole numbers).

    Example:
        >>> import jax
        >>> from jsplit.privacy import grid_laplace
        >>> noise = grid_laplace(jax.random.key(0), jax.numpy.zeros(100), 2.0, 2**-12)
        >>> bool((noise * 2**12 % 1 == 0).all())
        True
    """
    _check(grid)
    _check_width("b", b, grid, _LAPLACE_FARTHEST)
    rate = grid / jnp.asarray(b, jnp.float32)
    shape = jnp.shape(like)
    # One more word for all coins: it decides where the first 32 bits of one are equal.
    low = jax.random.bits(jax.random.fold_in(key, 0), shape, jnp.uint32)
    first = jax.random.bits(jax.random.fold_in(key, 1), shape, jnp.uint32)
    # 31 bits of the word are the coin of 0 and the last one is the sign.
    zero = _below(first >> 1, low, jnp.tanh(rate / 2), 31)

    def digit(i: jax.Array, many: jax.Array) -> jax.Array:
        word = jax.random.bits(jax.random.fold_in(key, i + 2), shape, jnp.uint32)
        place = jnp.left_shift(jnp.int32(1), i)
        chance = jax.nn.sigmoid(-rate * place.astype(jnp.float32))
        return many + jnp.where(_below(word, low, chance, 32), place, 0)

    digits = _MOST.bit_length()
    many = jax.lax.fori_loop(0, digits, digit, jnp.ones(shape, jnp.int32))
    signed = jnp.where(zero, 0, jnp.where(first & 1, many, -many)).astype(jnp.float32)
    # As of a deviation that is set too large in a compiled step.
    fits = jnp.asarray(b, jnp.float32) * _LAPLACE_FARTHEST < _MOST * grid
    return jnp.where(fits, signed, jnp.nan) * grid


def _below(word: jax.Array, low: jax.Array, chance: jax.Array, bits: int) -> jax.Array:
    """Coins of a probability, of words of so many random bits and of 32 bits after them."""
    # Both products are with powers of two, and both differences are exact.
    wide = chance * jnp.float32(2.0**bits)
    high = jnp.floor(wide)
    rest = ((wide - high) * jnp.float32(2.0**32)).astype(jnp.uint32)
    high = high.astype(jnp.uint32)
    return (word < high) | ((word == high) & (low < rest))


def _check_width(
    name: str, width: jax.Array | float, grid: float, farthest: float
) -> None:
    """Refuse noise whose largest number has too many multiples."""
    # One that is set later may be traced, and no number yet.
    known = isinstance(width, float | int)
    if known and not 0 <= float(width) * farthest < _MOST * grid:
        raise ValueError(
            f"`{name}` must be at least 0 and below {_MOST * grid / farthest:g}, as "
            f"`grid` is {grid:g}, got {shown(width)}."
        )


def _check(grid: float) -> None:
    power = isinstance(grid, float | int) and 0 < grid < float("inf")
    if (
        not power
        or frexp(grid)[0] != 0.5
        or not -_SMALLEST <= frexp(grid)[1] <= _SMALLEST
    ):
        raise ValueError(f"`grid` must be a power of two, got {shown(grid)}.")
