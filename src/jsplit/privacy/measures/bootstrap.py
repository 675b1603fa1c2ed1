"""The bootstrap over records: the interval of any statistic, from resampling what was measured.

Records are drawn again from those at hand, with replacement, and the statistic is
computed anew. It is for statistics of single records, as a mean of errors. Of what looks
at pairs (a distance correlation, a neighbour) it would be wrong: a record drawn twice is a
pair at a distance of 0, which never was; these have intervals of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist

import jax
import numpy as np

from jsplit.core.checks import as_positive_int
from jsplit.privacy.measures.records import at_least, generator
from jsplit.privacy.measures.student import t_quantile

LEAST = 40
"""With fewer draws the ends would be the smallest and the largest of them."""


def interval(
    statistic: Callable[..., float],
    arrays: Sequence[np.ndarray],
    key: jax.Array,
    count: int = 1000,
) -> tuple[float, float]:
    """Find the 95 % interval of a statistic by resampling records.

    Percentiles of the statistic over `count` resamplings, widened for few
    records as Student's t is wider than the normal: without that, of 20
    records, the interval of a mean would hold it 93 times of 100.

    Args:
        statistic: `statistic(*arrays)` of NumPy arrays, a number; of records
            one by one, as a mean is, not of pairs of them.
        arrays: each [records, ...], resampled together, so pairs stay pairs.
        key: what is drawn from.
        count: how often records are drawn anew.

    Returns:
        Lower and upper end. Infinite where the statistic is, as a PSNR of
        what is equal.

    Raises:
        ValueError: if arrays differ in their records, or there are fewer than
            2, or `count` is below 40, or the statistic gives NaN.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
        13; Hesterberg, `What teachers should know about the bootstrap
        <https://arxiv.org/abs/1411.5279>`_, 2014, section 5.3.

    Example:
        >>> import jax, numpy as np
        >>> from jsplit.privacy import interval
        >>> errors = np.random.default_rng(0).normal(1.0, 0.5, 400)
        >>> low, high = interval(np.mean, [errors], jax.random.key(0))
        >>> low < errors.mean() < high and high - low < 0.12
        True
    """
    arrays = [np.asarray(x) for x in arrays]
    sizes = {len(x) for x in arrays}
    if len(sizes) != 1:
        raise ValueError(
            f"`arrays` must be of the same records, got {sorted(sizes) or 'none'}."
        )
    (size,) = sizes
    at_least(size, 2, "a bootstrap")
    if as_positive_int("count", count) < LEAST:
        raise ValueError(f"`count` must be at least {LEAST}, got {count}.")

    draw = generator(key)
    found = np.empty(count)
    for i in range(count):
        rows = draw.integers(0, size, size)
        found[i] = statistic(*(x[rows] for x in arrays))
    if np.isnan(found).any():
        raise ValueError("`statistic` must give numbers, got NaN of some resampling.")
    reach = t_quantile(size - 1) * sqrt(size / (size - 1))
    share = NormalDist().cdf(-reach)
    # One of the draws and nothing between two: of infinite ones that would be NaN.
    low = np.quantile(found, share, method="inverted_cdf")
    high = np.quantile(found, 1 - share, method="inverted_cdf")
    return float(low), float(high)
