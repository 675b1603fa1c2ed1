"""Leak AUC: how well one number tells two classes apart, with ties counted exactly.

The area under the curve of true against false alarms is how often a record of class 1
scores higher than one of class 0, a tie being half: 0.5 is chance, 1 gives all away.
"""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.records import classes_of, host_array, paired
from jsplit.privacy.measures.student import Z


def leak_auc(score: PyTree, label: PyTree) -> Estimate:
    """Measure how well a score tells records of class 1 from those of class 0.

    The interval is DeLong's, on the logit, where it stays within 0 and 1. Where
    that has no width to speak of (all or nearly all pairs in order, all scores
    equal, or one record of a class) it is Newcombe's instead, which is wide where
    records are few: an AUC of 1 of 20 records is none of 1 for certain. An AUC below
    0.5 leaks as well, to who turns the score round; the caller says which way it
    points. As a metric:
    `jsplit.Metric("leak", lambda s, y: leak_auc(s, y).value, ...)`.

    Records are taken to be independent. The scores of one record in many steps
    are not: take each record once, or one AUC a batch.

    Args:
        score: [records] or [records, 1], higher where class 1 is suspected.
        label: [records], 0 or 1, or booleans.

    Returns:
        The AUC, its interval and "DeLong" or "Newcombe".

    Raises:
        ValueError: if shapes do not pair, a score is not finite, or labels are
            not both of 0 and 1.

    References:
        Li et al., `Label leakage and protection in two-party split learning
        <https://arxiv.org/abs/2102.08504>`_, 2022. DeLong, DeLong and
        Clarke-Pearson, Comparing the areas under two or more correlated ROC
        curves, Biometrics 44, 1988; Sun and Xu, Fast implementation of DeLong's
        algorithm, 2014; Newcombe, Confidence intervals for an effect size measure
        based on the Mann-Whitney statistic, part 2, Statistics in Medicine 25,
        2006, method 5; Hanley and McNeil, Radiology 143, 1982.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import leak_auc
        >>> leak_auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 1, 0, 0])).value
        0.875
    """
    scores = host_array("score", score)
    if scores.size != len(scores):
        raise ValueError(
            f"`score` must be one number for each record, got {shown(scores)}."
        )
    scores, labels = scores.reshape(-1), classes_of("label", label)
    paired("score", scores, "label", labels)
    kinds = len(np.unique(labels))
    if kinds != 2 or labels.min() != 0 or labels.max() != 1:
        raise ValueError(
            f"`label` must have records of 0 and of 1, got {kinds} classes; of more "
            "than two take one against the rest."
        )
    above, below = _shares(scores[labels == 1], scores[labels == 0])
    auc = float(above.mean())
    ends, method = _newcombe(auc, len(above), len(below)), "Newcombe"
    if _enough(auc, len(above), len(below)):
        variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
        # Of scores that are all equal here, others need not be.
        if variance > 0:
            ends, method = _on_the_logit(auc, sqrt(variance)), "DeLong"
    return Estimate(auc, ends, len(scores), method)


def _enough(auc: float, positives: int, negatives: int) -> bool:
    """Whether there are records enough on the wrong side for DeLong's variance.

    It is estimated from how records differ, and those of an AUC near 1 do not: below
    about five of the smaller class out of order it is too narrow in simulations.
    """
    fewer = min(positives, negatives)
    return fewer > 1 and min(auc, 1 - auc) * fewer >= 5


def _shares(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each record of one class, the share of the other that it is in order with."""

    def shares(x: np.ndarray, others: np.ndarray) -> np.ndarray:
        others = np.sort(others)
        # Those strictly below, and half of the equal ones: exact in half integers.
        twice = np.searchsorted(others, x, "left") + np.searchsorted(others, x, "right")
        return twice / (2 * len(others))

    return shares(high, low), 1 - shares(low, high)


def _on_the_logit(auc: float, deviation: float) -> tuple[float, float]:
    """The normal interval of the logit, brought back."""
    middle = log(auc / (1 - auc))
    reach = Z * deviation / (auc * (1 - auc))
    low, high = (1 / (1 + exp(-x)) for x in (middle - reach, middle + reach))
    return low, high


def _newcombe(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """All AUCs that lie within 1.96 of their own deviations of the one found."""
    product, more = positives * negatives, (positives + negatives) / 2 - 1

    def inside(at: float) -> bool:
        # Hanley's and McNeil's variance, in the form that treats both classes alike.
        spread = 1 + more * ((1 - at) / (2 - at) + at / (1 + at))
        return (auc - at) ** 2 <= Z**2 * at * (1 - at) * spread / product

    def end(outer: float) -> float:
        inner = auc
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        return inner

    return end(0.0), end(1.0)
