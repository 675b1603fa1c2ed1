"""Student's t: the interval of a mean of a few independent numbers, as those of batches.

What is no mean of records, as a distance correlation or a bound on information, depends
on the size of the batch. Its mean over disjoint batches of one size has this interval,
whatever it is in each.
"""

from __future__ import annotations

from math import isfinite, sqrt
from statistics import NormalDist

import numpy as np

from jsplit.privacy.measures.estimate import Estimate

LEVEL = 0.95
"""How sure an interval is."""

Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
"""So many standard deviations of a normal variable reach to each side: 1.96."""


def t_quantile(freedom: int) -> float:
    """How many standard errors of a mean reach to each side of it, at 95 %.

    Args:
        freedom: degrees of freedom, one less than there are numbers; at least 1.

    Returns:
        The quantile at 0.975 of Student's t.
    """
    # What JAX itself needs; here, since importing it takes a while.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


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
