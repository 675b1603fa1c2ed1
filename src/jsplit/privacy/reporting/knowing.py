"""What an adversary is supposed to know: whose labels, and which public records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown

Known: TypeAlias = "int | Sequence[int] | np.ndarray | None"

MOST_CLASSES = 1000


def known_places(known: Known, count: int) -> int | np.ndarray | None:
    """Check whose labels are known.

    Args:
        known: how many of each class, or places of records, or booleans [records].
        count: how many records there are.

    Returns:
        A number, or bool [records]; `None` if nobody's are.

    Raises:
        ValueError: if it is none of these.
    """
    if known is None:
        return None
    if np.ndim(known) == 0:
        return as_positive_int("known", known)
    found = np.asarray(known)
    if found.dtype == bool and found.shape == (count,):
        return found
    whole = found.ndim == 1 and np.issubdtype(found.dtype, np.integer)
    if not whole or (found.size and not 0 <= found.min() <= found.max() < count):
        raise ValueError(
            "`known` must be how many records of each class, or places of "
            f"{count} records, or booleans of them; got {shown(known)}."
        )
    where = np.zeros(count, bool)
    where[found] = True
    return where


def check_known(
    known: int | np.ndarray | None, labels: Mapping[str, PyTree], count: int
) -> None:
    """Refuse an adversary who would know nothing, or all, of the records trained on.

    Args:
        known: as `known_places` gives it, of these records.
        labels: class numbers by name, [records].
        count: how many records there are.

    Raises:
        ValueError: if it is so. Attacks would be left out, or guess nothing.
    """
    if known is None:
        return
    if isinstance(known, np.ndarray):
        if not 0 < known.sum() < count:
            raise ValueError(
                f"`known` must be some of the {count} records trained on and not all of "
                f"them, got {int(known.sum())}."
            )
        return
    for name, label in labels.items():
        least = int(np.unique(np.asarray(label), return_counts=True)[1].min())
        if known >= least:
            raise ValueError(
                f"`known` must be fewer than there are records of each class: of the "
                f"rarest class of `{name}` {least} are trained on, got {known}."
            )


def known_rows(
    known: int | np.ndarray | None,
    ids: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Which rows of a traffic are of records whose label is known.

    Args:
        known: as `known_places` gives it.
        ids: which record each row is.
        label: of each row.
        rng: what records are drawn from, where a number is given.

    Returns:
        bool [rows], or `None` if there is none, or no other.
    """
    if known is None:
        return None
    if isinstance(known, int):
        drawn = []
        for c in np.unique(label):
            there = np.unique(ids[label == c])
            drawn.append(rng.permutation(there)[:known])
        where = np.isin(ids, np.concatenate(drawn))
    else:
        where = known[ids]
    return where if where.any() and not where.all() else None


def classes_in(label: PyTree) -> int | None:
    """How many classes a label has: one more than the largest; `None` if it has none.

    Floating numbers are classes where they are 0 and 1, as a binary cross-entropy takes
    them. Other whole ones may be of a regression.

    Args:
        label: of all records.
    """
    found = np.asarray(label) if hasattr(label, "dtype") else None
    if found is None or not found.ndim or found.size != len(found):
        return None
    if found.dtype.kind not in "iub" and not np.isin(found, (0, 1)).all():
        return None
    low, high = int(found.min()), int(found.max())
    return high + 1 if low >= 0 and 1 <= high < MOST_CLASSES else None


def class_numbers(label: PyTree) -> np.ndarray:
    """The classes of a label that has some, as integers, [records].

    Args:
        label: of all records.
    """
    found = np.asarray(label).reshape(-1)
    return found if found.dtype.kind in "iub" else found.astype(np.int32)
