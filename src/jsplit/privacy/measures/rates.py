"""Accuracies and other rates: how many of so many, with an interval that is honest at 0 and 1.

A detector that missed none of 100 has not shown that it misses none. The interval of
Wilson says what it has shown: at most 3.7 of 100.
"""

from __future__ import annotations

from math import sqrt
from operator import index

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.records import classes_of, paired
from jsplit.privacy.measures.student import Z


def rate(hits: int, count: int) -> Estimate:
    """Give how many of so many, with Wilson's interval.

    Args:
        hits: how often it happened.
        count: how often it might have, at least 1.

    Returns:
        The share, and its interval.

    Raises:
        ValueError: if `count` is not positive or `hits` is no integer from 0 to
            `count`.

    References:
        Wilson, Probable inference, the law of succession, and statistical
        inference, JASA 22, 1927; Brown, Cai and DasGupta, `Interval estimation
        for a binomial proportion <https://doi.org/10.1214/ss/1009213286>`_, 2001.

    Example:
        >>> from jsplit.privacy import rate
        >>> print(rate(0, 100))
        0 [0, 0.037] of 100 records
    """
    count = as_positive_int("count", count)
    try:
        whole = index(hits)
    except TypeError:
        whole = -1
    if not 0 <= whole <= count:
        raise ValueError(
            f"`hits` must be an integer from 0 to {count}, got {shown(hits)}."
        )
    share, square = whole / count, Z * Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = Z * sqrt(share * (1 - share) / count + square / (4 * count * count))
    reach /= 1 + square / count
    # At the ends they are 0 and 1 but for rounding.
    low = 0.0 if not whole else middle - reach
    high = 1.0 if whole == count else middle + reach
    return Estimate(share, (low, high), count, "Wilson")


def accuracy(guess: PyTree, truth: PyTree) -> Estimate:
    """Measure how many records a guess is right of.

    Where one class is frequent, guessing it is right often: see
    `balanced_accuracy`.

    Args:
        guess: [records], classes.
        truth: [records], classes.

    Returns:
        The accuracy, with Wilson's interval.

    Raises:
        ValueError: if they do not pair, or hold no classes.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import accuracy
        >>> accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0])).value
        0.75
    """
    right, _ = _judged(guess, truth)
    return rate(int(right.sum()), len(right))


def balanced_accuracy(guess: PyTree, truth: PyTree) -> Estimate:
    """Measure how many records of a class a guess is right of, the mean over classes.

    Chance is 1 over the number of classes, however frequent one of them is. The
    interval is put together from Wilson's of each class.

    Args:
        guess: [records], classes.
        truth: [records], classes; those that occur in it are averaged over.

    Returns:
        The balanced accuracy and its interval.

    Raises:
        ValueError: if they do not pair, hold no classes, or `truth` has only one.

    References:
        Zou and Donner, Construction of confidence limits about effect measures: a
        general approach, Statistics in Medicine 27, 2008.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import balanced_accuracy
        >>> balanced_accuracy(np.zeros(10), np.arange(10) == 0).value
        0.5
    """
    right, truth = _judged(guess, truth)
    classes = np.unique(truth)
    if len(classes) < 2:
        raise ValueError("`truth` must have records of two classes at least, got one.")
    each = [
        rate(int(right[truth == c].sum()), int((truth == c).sum())) for c in classes
    ]
    value = float(np.mean([e.value for e in each]))
    # Independent parts: their distances to their ends add up in squares, each side
    # by itself, so the interval stays within 0 and 1.
    down = sqrt(sum((e.value - e.interval[0]) ** 2 for e in each)) / len(each)
    up = sqrt(sum((e.interval[1] - e.value) ** 2 for e in each)) / len(each)
    return Estimate(value, (value - down, value + up), len(right), "Wilson by class")


def _judged(guess: PyTree, truth: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Of which records a guess is right, and the truth."""
    guessed, true = classes_of("guess", guess), classes_of("truth", truth)
    paired("guess", guessed, "truth", true)
    return guessed == true, true
