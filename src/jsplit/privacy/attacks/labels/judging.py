"""How good a guess of labels is: an AUC by batch or an accuracy, each with its interval.

The leak AUC of a batch is how well the guess orders its records. Li et al. print the largest
of all batches, which is that of the luckiest; the mean is what an adversary reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jsplit.privacy.attacks.labels.seen import Truth
from jsplit.privacy.measures.auc import leak_auc
from jsplit.privacy.measures.rates import rate

SHUFFLES = 10  # of the truth, to see what a choice of names reaches by luck


class Judged(NamedTuple):
    """How good a guess is.

    Attributes:
        measure: "AUC" or "accuracy".
        value: it.
        interval: its 95 % interval.
        chance: what is reached without having seen anything.
        more: other numbers, by name.
    """

    measure: str
    value: float
    interval: tuple[float, float]
    chance: float
    more: Mapping[str, float]


def auc_by_batch(score: np.ndarray, truth: Truth) -> Judged:
    """Measure the leak AUC of each batch, and their mean.

    Batches in which only one class is left to guess are left out. The interval of the
    mean is put together from those of batches, as independent ones; where records
    occur again in later epochs it is wider by the square root of how often, as if all
    their guesses were the same.

    Args:
        score: [scored], higher where class 1 is suspected.
        truth: labels of 0 and 1.

    Returns:
        The mean over batches; the largest and the 95 % quantile beside it.

    Raises:
        ValueError: if no batch has records of both classes.

    References:
        Zou and Donner, Construction of confidence limits about effect measures: a
        general approach, Statistics in Medicine 27, 2008.
    """
    order = np.argsort(truth.step, kind="stable")
    starts = np.flatnonzero(np.diff(truth.step[order])) + 1
    values, ends, single = [], [], 0
    for batch in np.split(order, starts):
        label = truth.label[batch]
        if label.min() == label.max():
            single += 1
            continue
        found_there = leak_auc(score[batch], label)
        values.append(found_there.value)
        ends.append(found_there.interval)
    if not values:
        raise ValueError(
            "`traffic` has no step with records of both classes beside those that the "
            f"adversary knows, in {single} steps: take larger batches."
        )
    found, (low, high) = np.array(values), np.array(ends).T
    mean, wider = float(found.mean()), np.sqrt(truth.repeats) / len(found)
    down = float(np.sqrt(((found - low) ** 2).sum()) * wider)
    up = float(np.sqrt(((high - found) ** 2).sum()) * wider)
    interval = max(0.0, mean - down), min(1.0, mean + up)
    more = {
        "max": float(found.max()),
        "95 % quantile": float(np.quantile(found, 0.95)),
        "batches": float(len(found)),
        "batches of one class": float(single),
    }
    return Judged("AUC", mean, interval, 0.5, more)


def judge(margins: np.ndarray, truth: Truth) -> Judged:
    """Measure a guess of two classes by AUC, and of more by accuracy.

    Args:
        margins: [scored, classes], larger where that class is suspected.
        truth: the classes.

    Returns:
        The AUC by batch and the accuracy beside it, or the accuracy. Chance of an
        accuracy is how frequent the most frequent class is.
    """
    right = margins.argmax(1) == truth.label
    frequent = float(np.bincount(truth.label).max() / len(truth.label))
    share = float(right.mean())
    # What occurs several times counts once.
    count = max(1, round(len(right) / truth.repeats))
    interval = rate(round(share * count), count).interval
    if margins.shape[1] > 2:
        found = Judged("accuracy", share, interval, frequent, {})
    else:
        found = auc_by_batch(margins[:, 1] - margins[:, 0], truth)
        found = found._replace(more={**found.more, "accuracy": share})
    by_class = [right[truth.label == c].mean() for c in np.unique(truth.label)]
    more = {"balanced accuracy": float(np.mean(by_class)), "most frequent": frequent}
    return found._replace(more={**found.more, **more})


def judge_unnamed(
    margins: np.ndarray, truth: Truth, rng: np.random.Generator
) -> Judged:
    """Measure groups that bear no names: each is given the class that suits the score best.

    That is one choice of names for all records, and more than the adversary knows. So
    chance is what the same choice reaches with shuffled labels, where it is larger.

    Args:
        margins: [scored, groups].
        truth: the classes, at most as many as groups.
        rng: for the shuffles.

    Returns:
        As `judge`.
    """
    found = judge(_named_best(margins, truth), truth)
    lucky = []
    for _ in range(SHUFFLES):
        other = truth.shuffled(rng)
        lucky.append(judge(_named_best(margins, other), other).value)
    return found._replace(chance=max(found.chance, float(np.mean(lucky))))


def _named_best(margins: np.ndarray, truth: Truth) -> np.ndarray:
    """Margins by class, under the names by which the score is best."""
    if margins.shape[1] == 2:
        value = auc_by_batch(margins[:, 1] - margins[:, 0], truth).value
        return margins if value >= 0.5 else margins[:, ::-1]
    classes = margins.shape[1]
    table = np.zeros((classes, classes))
    np.add.at(table, (margins.argmax(1), truth.label), 1)
    return by_class(margins, assignment(-table))


def assignment(cost: np.ndarray) -> np.ndarray:
    """The class of each group, each class once, of the least sum of costs.

    Args:
        cost: [groups, classes], as many of one as of the other.

    Returns:
        int [groups].

    References:
        Kuhn, The Hungarian method for the assignment problem, Naval Research
        Logistics 2, 1955.
    """
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(cost)[1])


def by_class(margins: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Columns of groups in the order of classes; `names` is the class of each group."""
    found = np.empty_like(margins)
    found[:, names] = margins
    return found
