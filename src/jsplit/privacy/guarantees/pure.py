"""Mechanisms without a delta: Laplace noise, and randomized response of labels.

Of several one after another the epsilons add up.
"""

from __future__ import annotations

from math import exp, inf, log, log1p

from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.guarantees.gaussian import at_least_0


def laplace_epsilon(scale: float, sensitivity: float = 2.0) -> float:
    """The epsilon of Laplace noise on each number of a vector.

    Args:
        scale: of the noise, b of the density exp(-|x| / b) / (2 b), above 0; its
            deviation is sqrt(2) b.
        sensitivity: how far, in the sum of absolute differences, a change of one
            record can move the vector: 2 C for one clipped to C in that norm, if a
            record may be replaced; so by default `scale` is in units of C.

    Returns:
        sensitivity / scale.

    Raises:
        ValueError: if `scale` is not positive or `sensitivity` negative.

    References:
        Dwork et al., Calibrating noise to sensitivity in private data analysis, 2006,
        Example 1.

    Example:
        >>> from jsplit.privacy import laplace_epsilon
        >>> laplace_epsilon(scale=4.0)
        0.5
    """
    if not scale > 0:
        raise ValueError(f"`scale` must be positive, got {shown(scale)}.")
    return at_least_0("sensitivity", sensitivity) / scale


def response_epsilon(keep: float, classes: int) -> float:
    """The epsilon of randomized response: a label is kept, or one of the others is said.

    Args:
        keep: probability that the label that is said is the true one, from 1 / classes
            to 1. Each other one is said with (1 - keep) / (classes - 1).
        classes: how many labels there are, at least 2.

    Returns:
        log(keep (classes - 1) / (1 - keep)); infinity if `keep` is 1.

    Raises:
        ValueError: if `keep` or `classes` is out of range.

    References:
        Warner, Randomized response, 1965; Kairouz, Oh & Viswanath, `Extremal
        mechanisms for local differential privacy <https://arxiv.org/abs/1407.1338>`_,
        2014, equation 5.

    Example:
        >>> from jsplit.privacy import response_epsilon
        >>> round(response_epsilon(keep=0.95, classes=2), 3)
        2.944
    """
    _check_classes(classes)
    if not 1 / classes <= keep <= 1:
        raise ValueError(
            f"`keep` must lie in [1 / {classes}, 1], got {shown(keep)}: below, a label "
            "would be said more rarely than any other."
        )
    return inf if keep == 1 else max(0.0, log(keep * (classes - 1)) - log1p(-keep))


def response_keep(epsilon: float, classes: int) -> float:
    """The probability with which randomized response says the true label.

    Args:
        epsilon: at least 0.
        classes: how many labels there are, at least 2.

    Returns:
        1 / (1 + (classes - 1) exp(-epsilon)).

    Raises:
        ValueError: if `epsilon` or `classes` is out of range.

    References:
        As of `response_epsilon`, of which it is the inverse.

    Example:
        >>> from jsplit.privacy import response_keep
        >>> round(response_keep(epsilon=3.0, classes=2), 3)
        0.953
    """
    _check_classes(classes)
    return 1 / (1 + (classes - 1) * exp(-at_least_0("epsilon", epsilon)))


def _check_classes(classes: int) -> None:
    if as_positive_int("classes", classes) < 2:
        raise ValueError(f"`classes` must be at least 2, got {shown(classes)}.")
