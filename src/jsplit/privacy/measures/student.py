"""Student's t: the interval of a mean of a few independent numbers, as those of batches.

What is no mean of records, as a distance correlation or a bound on information, depends
on the size of the batch. Its mean over disjoint batches of one size has this interval,
whatever it is in each.
"""

from __future__ import annotations

from functools import cache
from math import atan, cos, isfinite, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

from jsplit.privacy.measures.estimate import Estimate

LEVEL = 0.95
"""How sure an interval is."""

Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
"""So many standard deviations of a normal variable reach to each side: 1.96."""

_MANY = 400
"""From so many degrees of freedom on, an expansion about the normal is exact to 1e-9."""


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors of a mean reach to each side of it, at 95 %.

    Args:
        freedom: degrees of freedom, one less than there are numbers; at least 1.

    Returns:
        The quantile at 0.975 of Student's t.

    References:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3-5.
    """
    if freedom > _MANY:
        z, n = Z, freedom
        first = (z**3 + z) / (4 * n)
        return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    low, high = Z, 13.0  # the quantile of one degree of freedom is 12.706
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _within(middle, freedom) < LEVEL else (low, middle)
        )
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """How probable it is that Student's t lies within -t and t: a finite sum."""
    angle = atan(t / sqrt(freedom))
    # The first terms and the factors differ between odd and even.
    start = freedom % 2
    term = cos(angle) if start else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(start + 2, freedom - 1, 2):
        term *= cos(angle) ** 2 * (k - 1) / k
        total += term
    total *= sin(angle)
    return 2 / pi * (angle + total) if start else total


def mean_of(values: np.ndarray, records: int, method: str) -> Estimate:
    """The mean of independent numbers, with Student's interval.

    Args:
        values: [count], one for each batch; at least 2.
        records: how many records they were measured on together.
        method: what is said of the interval.

    Returns:
        The mean and its interval.
    """
    values = np.asarray(values, np.float64)
    value = float(values.mean())
    reach = t_quantile(len(values) - 1) * float(values.std(ddof=1))
    reach /= sqrt(len(values))
    assert isfinite(reach)
    return Estimate(value, (value - reach, value + reach), records, method)
