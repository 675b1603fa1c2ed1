"""Distance correlation: how far two values of the same records depend on each other, with gradient.

0 if and only if they are independent, whatever the form of the dependence, and 1 if one
is the other up to shift, rotation and scale. What NoPeek minimises.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.typed_jax import is_traced
from jsplit.privacy.measures.distances import pairwise
from jsplit.privacy.measures.records import array_of, at_least, flat, paired


class _Moments(NamedTuple):
    """What is made of two matrices of distances: float [] each."""

    xy: jax.Array
    xx: jax.Array
    yy: jax.Array


def distance_correlation(
    x: PyTree,
    y: PyTree,
    weight: ArrayLike | None = None,
    *,
    corrected: bool = False,
    exponent: float = 1.0,
) -> jax.Array:
    """Compute the distance correlation of two values of the same records.

    **As it is usually computed it is biased**: of independent Gaussian values
    of 128 and 64 numbers it is 0.64, 0.85 and 0.96 at 512, 128 and 32 records. So
    never print it without the size of the batch, and the corrected one beside
    it, which is 0 on average where there is nothing. **The corrected one is on
    the scale of the square**: it estimates the squared distance correlation,
    and may be negative. `dependence` measures both over batches, with
    intervals, and what shuffled pairs give.

    It is pure, and may be traced and differentiated: its gradient is finite
    at equal records, where it is 0 for the pair. As a penalty it is NoPeek's.
    Memory and time grow with the square of the records: of a whole set take
    `dependence`.

    With `exponent=2`, squared distances, it is no measure of independence
    any more but of linear dependence alone: of single numbers it is the
    absolute value of Pearson's correlation. Some published code has it so,
    and its numbers do not compare with those of plain distances.

    Args:
        x: [records, ...], or a pytree of such arrays, laid side by side. A class
            is no distance: give it one-hot.
        y: the same of the other value.
        weight: [records], how much each record counts, not negative; `None`: all
            alike. Of 0 it is left out. Biased, a weight of 2 is the record
            twice; corrected, weights say how much to look at a record, not
            how often it came.
        corrected: whether the bias is taken off (U-statistic), or not
            (V-statistic).
        exponent: of the distances, above 0 and at most 2.

    Returns:
        float []. Biased: from 0 to 1. Corrected: at most 1, and 0 on average if
        independent. 0 where a value is the same in all records; and traced, where
        too few records count.

    Raises:
        ValueError: if records do not pair, there are fewer than 2 (corrected: 4)
            that count, one is not finite, or a setting is out of range.

    References:
        Székely, Rizzo and Bakirov, `Measuring and testing dependence by
        correlation of distances <https://arxiv.org/abs/0803.4101>`_, 2007,
        definitions 4 and 5; Székely and Rizzo, `The distance correlation t-test of
        independence in high dimension
        <https://doi.org/10.1016/j.jmva.2013.02.012>`_, 2013; Székely and Rizzo,
        `Partial distance correlation with methods for dissimilarities
        <https://arxiv.org/abs/1310.2926>`_, 2014, equation 2.3. NoPeek:
        Vepakomma et al., `NoPeek <https://arxiv.org/abs/2008.09161>`_, 2020.

    Example:
        >>> import jax, jsplit
        >>> from jsplit.privacy import distance_correlation
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> print(round(float(distance_correlation(x, 1 - 2 * x)), 4))
        1.0
        >>> nopeek = jsplit.Penalty(
        ...     "nopeek", distance_correlation, "hospital", ["image", "smashed"], 5.0
        ... )
    """
    if not 0 < exponent <= 2:
        raise ValueError(
            f"`exponent` must be above 0 and at most 2, got {shown(exponent)}."
        )
    x, y = flat("x", x), flat("y", y)
    paired("x", x, "y", y)
    least = 4 if corrected else 2
    at_least(len(x), least, "a distance correlation")
    return _correlation(x, y, _weights(weight, x, least), corrected, exponent)


# One program for who calls it outside of any: its forty operations would be compiled each.
@partial(jax.jit, static_argnums=(3, 4))
def _correlation(
    x: jax.Array, y: jax.Array, counts: jax.Array, corrected: bool, exponent: float
) -> jax.Array:
    """The distance correlation of two tables whose records weigh `counts` together 1."""
    # What is left out may hold anything; it weighs nothing, but it would be summed.
    kept = counts[:, None] > 0
    a = _scaled(pairwise(jnp.where(kept, x, 0), exponent), counts)
    b = _scaled(pairwise(jnp.where(kept, y, 0), exponent), counts)
    if corrected:
        return _ratio(_unbiased(a, b, counts))
    # The root is taken twice with care: of 0 it has no derivative either.
    square = _ratio(_biased(a, b, counts))
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _weights(weight: ArrayLike | None, x: jax.Array, least: int) -> jax.Array:
    """Weights whose sum is 1, in the type of `x`."""
    if weight is None:
        return jnp.full(len(x), 1 / len(x), x.dtype)
    found = array_of("weight", weight).astype(x.dtype)
    if found.shape != (len(x),):
        raise ValueError(
            f"`weight` must be one number for each of {len(x)} records, got "
            f"{shown(found)}."
        )
    if not is_traced(found):
        if (found < 0).any():
            raise ValueError("`weight` must not be negative.")
        at_least(int((found > 0).sum()), least, "a distance correlation")
    total = found.sum()
    return found / jnp.where(total > 0, total, 1)


def _scaled(distances: jax.Array, weight: jax.Array) -> jax.Array:
    """Distances in units of their mean, so that squares of small ones stay numbers."""
    # The correlation does not depend on the unit, so neither does its gradient.
    mean = jax.lax.stop_gradient(weight @ distances @ weight)
    return distances / jnp.where(mean > 0, mean, 1)


def _ratio(found: _Moments) -> jax.Array:
    """A covariance over both deviations; 0 where one of these is."""
    product = found.xx * found.yy
    positive = (found.xx > 0) & (found.yy > 0) & (product > 0)
    return jnp.where(positive, found.xy / jnp.sqrt(jnp.where(positive, product, 1)), 0)


def _biased(a: jax.Array, b: jax.Array, weight: jax.Array) -> _Moments:
    """Distance covariance and variances of the weighted records as a population."""

    def centred(d: jax.Array) -> jax.Array:
        means = d @ weight
        return d - means[:, None] - means[None] + weight @ means

    a, b = centred(a), centred(b)
    return _Moments(*(weight @ (s * t) @ weight for s, t in ((a, b), (a, a), (b, b))))


def _unbiased(a: jax.Array, b: jax.Array, weight: jax.Array) -> _Moments:
    """The same as means over pairs, triples and quadruples of different records.

    Unbiased term by term, whatever the weights; of equal weights it is the
    U-centred product of 2014, equation 2.3.
    """
    other = 1 - jnp.eye(len(a), dtype=a.dtype)
    # A constant in all distances falls out, and what is left keeps more digits.
    a, b = (a - weight @ a @ weight) * other, (b - weight @ b @ weight) * other
    ones = _sums(other, other, weight)

    def covariance(s: jax.Array, t: jax.Array) -> jax.Array:
        two, three, four = (
            jnp.where(n > 0, x / jnp.where(n > 0, n, 1), 0)
            for x, n in zip(_sums(s, t, weight), ones, strict=True)
        )
        # With fewer than four records there is no quadruple, and nothing to say.
        return jnp.where((weight > 0).sum() >= 4, two - 2 * three + four, 0)

    return _Moments(covariance(a, b), covariance(a, a), covariance(b, b))


def _sums(a: jax.Array, b: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
    """Weighted sums of a_ij b_ij, a_ij b_ik and a_ij b_kl, all indices different."""
    square, product = weight**2, a * b
    rows_a, rows_b = a @ weight, b @ weight
    two = weight @ product @ weight
    # Row sums multiply all pairs (j, k); those with j = k are taken off.
    by_row = rows_a * rows_b - product @ square
    three = weight @ by_row
    # All (i, j) with all (k, l), less those that share one index (four ways) or
    # two (two ways).
    four = (weight @ rows_a) * (weight @ rows_b)
    four = four - 4 * (square @ by_row) - 2 * (square @ product @ square)
    return two, three, four
