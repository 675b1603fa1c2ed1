"""What an attack on labels reads of a party's traffic, and what its score is held against.

The truth stands apart from what is seen: the function that guesses is given the one, the
function that scores the other.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.attacks.attack import pick, rows
from jsplit.privacy.traffic import Traffic


class Seen(NamedTuple):
    """A value as the adversary has it.

    Attributes:
        rows: float32 [records, numbers].
        step: at which place among the steps that occur a record's is, int [records].
        name: of the value.
    """

    rows: jax.Array
    step: np.ndarray
    name: str

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return int(self.step.max()) + 1


class Truth(NamedTuple):
    """What a score is held against: labels of the records that the adversary must guess.

    Attributes:
        label: classes of those records, int [scored].
        step: places of their steps, int [scored].
        where: which of all records they are, bool [records].
        repeats: how often a record of the training occurs, on average.
    """

    label: np.ndarray
    step: np.ndarray
    where: np.ndarray
    repeats: float

    def shuffled(self, rng: np.random.Generator) -> Truth:
        """The same labels at other records of the same step: nothing can be found."""
        # Within a step, so that each keeps its number of positives.
        places = np.argsort(self.step, kind="stable")
        label = np.empty_like(self.label)
        label[places] = self.label[np.lexsort((rng.random(len(label)), self.step))]
        return self._replace(label=label)


def step_places(traffic: Traffic) -> np.ndarray:
    """The place of each record's step among those that occur, int [records]."""
    step = np.asarray(traffic.step)
    if step.ndim != 1 or not len(step) or not np.issubdtype(step.dtype, np.integer):
        raise ValueError(
            "`traffic.step` must be the number of a step for each record, integers "
            f"[records], got {step.dtype} {step.shape}."
        )
    return np.unique(step, return_inverse=True)[1].reshape(-1)


def cotangents(traffic: Traffic, value: str | None) -> Seen:
    """Cotangents that came to the adversary.

    Args:
        traffic: what it has seen.
        value: whose cotangent, where several came.

    Returns:
        Them, a row for each record.

    Raises:
        ValueError: if none came: who gets none has nothing that depends on a label.
    """
    party = shown(traffic.party)
    name = pick(traffic.returned, value, f"cotangents that came to {party}")
    step = step_places(traffic)
    return Seen(rows(name, traffic.returned[name], len(step)), step, name)


def noise_like(seen: Seen, key: jax.Array) -> Seen:
    """Isotropic noise in the place of what was seen: the control of every attack."""
    return seen._replace(rows=jax.random.normal(key, seen.rows.shape))


def truth_of(
    label: PyTree,
    step: np.ndarray,
    *,
    classes: int | None = 2,
    known: np.ndarray | None = None,
    ids: PyTree = None,
) -> Truth:
    """Check labels, and leave out records that the adversary knows.

    Args:
        label: [records] or [records, 1], classes.
        step: places of steps, [records].
        classes: how many there may be; `None`: any number.
        known: bool [records], those whose label the adversary knows.
        ids: [records], equal where a record of the training occurs again.

    Returns:
        What a score is held against.

    Raises:
        ValueError: if labels are no classes, not of these records, or all of one.
    """
    found = classes_of(label, len(step), classes)
    where = np.ones(len(step), bool) if known is None else ~known
    if len(np.unique(found[where])) < 2:
        raise ValueError(
            "`label` must have records of two classes at least beside those that the "
            "adversary knows, got one: nothing is to be told apart."
        )
    repeats = 1.0
    if ids is not None:
        names = np.asarray(ids)
        if names.shape != (len(step),):
            raise ValueError(
                f"`ids` must be one for each of {len(step)} records, got {shown(ids)}."
            )
        repeats = where.sum() / len(np.unique(names[where]))
    return Truth(found[where], step[where], where, float(repeats))


def distinct(where: np.ndarray, ids: PyTree = None) -> int:
    """How many records rows are of: one that occurs in several steps counts once.

    Args:
        where: which rows, bool [rows].
        ids: who a record is, [rows]; without, each row is one.
    """
    return int(where.sum()) if ids is None else len(np.unique(np.asarray(ids)[where]))


def classes_of(label: PyTree, records: int, classes: int | None) -> np.ndarray:
    """Labels as classes on the host, int [records]; a float must be a whole number."""
    found = np.asarray(label)
    if found.shape not in ((records,), (records, 1)):
        raise ValueError(
            f"`label` must be one class for each of {records} records, got "
            f"{shown(label)}."
        )
    found = found.reshape(-1)
    kind = found.dtype == bool or np.issubdtype(found.dtype, np.number)
    # NaN is no whole number either.
    if not kind or np.iscomplexobj(found) or (found != np.floor(found)).any():
        raise ValueError("`label` must hold classes, whole numbers; got others.")
    found = found.astype(np.int64)
    if found.min() < 0 or (classes is not None and found.max() >= classes):
        text = "0, 1, ..." if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(f"`label` must hold classes {text}; got others.")
    return found


def known_of(known: PyTree, records: int) -> np.ndarray:
    """Which records' labels an adversary knows, bool [records], from that or from places."""
    found = np.asarray(known)
    if found.dtype == bool and found.shape == (records,):
        where = found
    elif np.issubdtype(found.dtype, np.integer) and found.ndim == 1:
        if found.size and (found.min() < 0 or found.max() >= records):
            raise ValueError(
                f"`known` must be places of {records} records, from 0 on; got others."
            )
        where = np.zeros(records, bool)
        where[found] = True
    else:
        raise ValueError(
            f"`known` must be booleans [{records}], or places of records, got "
            f"{shown(known)}."
        )
    if not where.any() or where.all():
        raise ValueError(
            "`known` must be some of the records and not all: the others are to be "
            f"guessed; got {int(where.sum())} of {records}."
        )
    return where
