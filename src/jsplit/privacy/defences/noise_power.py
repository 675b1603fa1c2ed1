"""How Marvell spreads noise: for which covariances two classes are hardest to tell apart.

Of two normal classes with isotropic covariance the best noise is, for each class, one
power along the difference of their means and one across it: four numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_POINTS, _ROUNDS = 129, 3
"""Of the search: each round looks closer at two intervals of the round before."""


class Classes(NamedTuple):
    """Two classes of vectors, as normal distributions.

    Attributes:
        negative: variance of each number in the negative class, [].
        positive: in the positive one.
        gap: squared distance of their means.
        share: of the positive class among all, above 0 and below 1.
        numbers: how many a vector has.
    """

    negative: jax.Array
    positive: jax.Array
    gap: jax.Array
    share: jax.Array
    numbers: int


class Power(NamedTuple):
    """Variances of noise by class: along the difference of means, and across it.

    Attributes:
        along_negative: in the direction of the difference, [].
        across_negative: in each other direction.
        along_positive: the same of the positive class.
        across_positive: and this.
    """

    along_negative: jax.Array
    across_negative: jax.Array
    along_positive: jax.Array
    across_positive: jax.Array


def sum_kl(classes: Classes, power: Power) -> jax.Array:
    """The sum of both Kullback-Leibler divergences of the classes with their noise.

    Li et al. (2022), appendix: it bounds how well any attack by one vector tells the
    classes apart, by its AUC.
    """
    u, v, gap, _, d = classes
    along = _along(u + power.along_negative, v + power.along_positive, gap)
    across = _across(u + power.across_negative, v + power.across_positive)
    return (along + (d - 1) * across) / 2 - d


def least_kl(classes: Classes, budget: jax.Array) -> Power:
    """The noise that makes `sum_kl` least, of at most so much power.

    Args:
        classes: what noise is added to.
        budget: the mean over records of the expected squared norm of the noise.

    Returns:
        Four variances. All of 0 where `budget` is.
    """
    u, v, _, p, d = classes
    q = 1 - p
    # Across, only the difference of variances shows: the class that has less of it
    # gets noise until both have the same, and no more.
    share = jnp.where(u < v, q, p)
    end = share * jnp.abs(v - u)
    end = jnp.minimum(end, budget / (d - 1)) if d > 1 else jnp.zeros_like(end)

    def split(across: jax.Array) -> Power:
        lifted = across / share
        zero = jnp.zeros_like(lifted)
        left = jnp.maximum(budget - (d - 1) * across, 0)
        a, b = _spread(classes, left)
        low = jnp.where(u < v, lifted, zero)
        return Power(a, low, b, jnp.where(u < v, zero, lifted))

    # One number is left to choose, how much goes across. By points and not by slope:
    # at the ends the slope may have no bound.
    start, stop = jnp.zeros_like(end), end
    best = start
    for _ in range(_ROUNDS):
        points = start + (stop - start) * jnp.linspace(0, 1, _POINTS, dtype=end.dtype)
        found = sum_kl(classes, jax.vmap(split)(points))
        # 0 / 0 where a class has no variance and gets none: as far as can be.
        at = jnp.argmin(jnp.where(jnp.isnan(found), jnp.inf, found))
        best = points[at]
        start = points[jnp.maximum(at - 1, 0)]
        stop = points[jnp.minimum(at + 1, _POINTS - 1)]
    return split(best)


def _spread(classes: Classes, left: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much of a budget along the difference each class gets, in closed form."""
    u, v, gap, p, _ = classes
    q = 1 - p
    # With a and b the variances along, q a + p b = total; where the derivative of
    # `_along` on that line is 0, (total + q gap) / b^2 = (total + p gap) / a^2.
    # On it both terms are convex, so what is out of reach is best at its end.
    total = left + q * u + p * v
    below = total + q * gap
    ratio = jnp.sqrt((total + p * gap) / jnp.where(below > 0, below, 1))
    a = ratio * total / (p + q * ratio)
    negative = jnp.clip(a - u, 0, left / q)
    return negative, jnp.maximum(left - q * negative, 0) / p


def _along(a: jax.Array, b: jax.Array, gap: jax.Array) -> jax.Array:
    return (a + gap) / b + (b + gap) / a


def _across(a: jax.Array, b: jax.Array) -> jax.Array:
    # Two classes without any variance across are alike there.
    none = (a == 0) & (b == 0)
    return jnp.where(none, 2, a / jnp.where(none, 1, b) + b / jnp.where(none, 1, a))
