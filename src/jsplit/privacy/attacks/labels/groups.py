"""Groups of records and their names: what an attack finds that cannot tell which class is which.

Clusters, and the classes of a surrogate head, are found up to their order. Records whose
label is known name them; without any the best names are taken, and chance says by how much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.labels.judging import (
    Judged,
    assignment,
    by_class,
    judge,
    judge_unnamed,
)
from jsplit.privacy.attacks.labels.seen import (
    Truth,
    classes_of,
    distinct,
    known_of,
    truth_of,
)


class Groups(NamedTuple):
    """What is known of the groups, and what they are held against.

    Attributes:
        true: the classes of all records, int [records].
        known: those whose class the adversary knows, bool [records], or `None`.
        truth: those of the others.
        labelled: of how many records the adversary knows the class.
        records: how many there are.
    """

    true: np.ndarray
    known: np.ndarray | None
    truth: Truth
    labelled: int
    records: int

    def judged(
        self, margins: np.ndarray, rng: np.random.Generator, *, shuffled: bool = False
    ) -> Judged:
        """Name groups, and measure how good they are.

        Args:
            margins: [records, groups], larger where a record is of that group.
            rng: for shuffles.
            shuffled: whether the truth is to be shuffled: a control.

        Returns:
            The AUC of two classes, or the accuracy.
        """
        truth = self.truth.shuffled(rng) if shuffled else self.truth
        if self.known is None:
            return judge_unnamed(margins[truth.where], truth, rng)
        # A group bears the name of the known records that lie nearest to it.
        nearness = [
            margins[self.known & (self.true == c)].mean(0)
            for c in range(margins.shape[1])
        ]
        names = assignment(-np.stack(nearness, axis=1))
        return judge(by_class(margins, names)[truth.where], truth)


def groups_of(
    label: PyTree, step: np.ndarray, classes: int, known: PyTree, ids: PyTree
) -> Groups:
    """Check the truth, and which of it the adversary knows.

    Args:
        label: [records], classes.
        step: places of steps, [records].
        classes: how many, 2 at least.
        known: booleans [records], places of records, or `None`.
        ids: [records], or `None`.

    Returns:
        What the groups are named by and held against.

    Raises:
        ValueError: if these do not fit, or no record is known of some class.
    """
    if as_positive_int("classes", classes) < 2:
        raise ValueError(f"`classes` must be 2 at least, got {classes}.")
    true = classes_of(label, len(step), classes)
    where = None if known is None else known_of(known, len(step))
    if where is not None and len(np.unique(true[where])) < classes:
        raise ValueError(
            f"`known` must have a record of each of {classes} classes, got records of "
            f"{len(np.unique(true[where]))}."
        )
    truth = truth_of(label, step, classes=classes, known=where, ids=ids)
    labelled = 0 if where is None else distinct(where, ids)
    return Groups(true, where, truth, labelled, distinct(step >= 0, ids))
