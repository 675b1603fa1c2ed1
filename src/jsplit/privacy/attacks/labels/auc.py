"""Leak AUC with DeLong's interval, and a rate with Wilson's.

The area under the curve of true against false alarms is how often a record of class 1 scores
higher than one of class 0, a tie being half.
"""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np

Z = 1.959963984540054  # of 95 % of a normal distribution
Estimate = tuple[float, tuple[float, float]]


def leak_auc(score: np.ndarray, label: np.ndarray) -> Estimate:
    """Measure how well a score tells class 1 from class 0; ties count half.

    Args:
        score: [records].
        label: [records], 0 or 1, both occurring.

    Returns:
        The AUC, and its 95 % interval: DeLong's on the logit, or Newcombe's where
        (almost) all pairs are in order and DeLong's variance has nothing to go by.
    """
    high, low = score[label == 1], score[label == 0]
    above = _share_below(high, low)
    below = 1 - _share_below(low, high)
    auc = float(above.mean())
    fewer = min(len(high), len(low))
    if fewer < 2 or min(auc, 1 - auc) * fewer < 5:
        return auc, _newcombe(auc, len(high), len(low))
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    middle, reach = log(auc / (1 - auc)), Z * sqrt(variance) / (auc * (1 - auc))
    ends = [1 / (1 + exp(-x)) for x in (middle - reach, middle + reach)]
    return auc, (ends[0], ends[1])


def _share_below(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each of `x`, which share of `others` lies below it, equal ones half."""
    others = np.sort(others)
    twice = np.searchsorted(others, x, "left") + np.searchsorted(others, x, "right")
    return twice / (2 * len(others))


def _newcombe(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """All AUCs within 1.96 of their own deviations of the one found (Newcombe 2006)."""
    more = (positives + negatives) / 2 - 1

    def inside(at: float) -> bool:
        spread = 1 + more * ((1 - at) / (2 - at) + at / (1 + at))
        bound = Z**2 * at * (1 - at) * spread / (positives * negatives)
        return (auc - at) ** 2 <= bound

    def end(outer: float) -> float:
        inner = auc
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        return inner

    return end(0.0), end(1.0)


def rate(share: float, count: float) -> Estimate:
    """A share of so many with Wilson's interval.

    Args:
        share: from 0 to 1.
        count: of so many, which may be no integer where records repeat.

    Returns:
        The share and its 95 % interval.
    """
    square = Z * Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = Z * sqrt(share * (1 - share) / count + square / (4 * count * count))
    reach /= 1 + square / count
    return share, (max(0.0, middle - reach), min(1.0, middle + reach))
