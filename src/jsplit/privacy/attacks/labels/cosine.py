"""The direction attack: cotangents of one class point one way, those of the other back.

The sign of p - y turns a cotangent round, so one known positive record shows which way
positives point. One in each step, as published; or any, of which the nearest step serves.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.privacy.attacks.attack import key_or_default, seed_of, units
from jsplit.privacy.attacks.labels.judging import auc_by_batch
from jsplit.privacy.attacks.labels.seen import (
    Seen,
    cotangents,
    distinct,
    known_of,
    noise_like,
    truth_of,
)
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Li et al., Label leakage and protection in two-party split learning, 2022"


def cosine_attack(
    traffic: Traffic,
    label: PyTree,
    *,
    known: PyTree = None,
    value: str | None = None,
    ids: PyTree = None,
    target: str = "label",
    key: jax.Array | None = None,
) -> Score:
    """Tell two classes apart by the cosine to the cotangent of a record known to be positive.

    A passive adversary that knows a few positive records. In a step with several of
    them it takes the mean of their directions; in one without any, those of the
    nearest step that has some.

    Args:
        traffic: what the adversary has seen, with cotangents of one value at least.
        label: the truth, [records], 0 or 1; the score alone is held against it, over
            records that are not known.
        known: which records it knows to be of class 1, booleans [records] or places.
            By default one of each step that has one, drawn by `key`, as published.
        value: whose cotangent is read, where several came.
        ids: [records], who a record is, where records occur in several steps: the
            interval allows for it.
        target: the name of the label, for the score.
        key: a PRNG key, for the draw and the controls; by default always the same.

    Returns:
        The leak AUC, the mean over batches. `control` is that of isotropic noise in the
        place of cotangents; `more` as of `norm_attack`.

    Raises:
        ValueError: if no cotangent came to this party, a record of `known` is not of
            class 1, there are other classes than 0 and 1, or shapes do not fit.

    References:
        Li et al., `Label leakage and protection in two-party split learning
        <https://arxiv.org/abs/2102.08504>`_, 2022, section 3.2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, cosine_attack
        >>> label = jnp.arange(64) % 4 == 0
        >>> h = jax.random.normal(jax.random.key(0), (64, 3)) + 5 * (2 * label - 1)[:, None]
        >>> seen = Traffic("client", jnp.zeros(64, int), returned={"h": h})
        >>> cosine_attack(seen, label).value > 0.9
        True
    """
    start = perf_counter()
    seen, key = cotangents(traffic, value), key_or_default(key)
    rng = np.random.default_rng(seed_of(key))
    true = truth_of(label, seen.step).label
    if known is None:
        where = _one_each(true, seen, rng)
    else:
        where = known_of(known, len(seen.step))
        if not true[where].all():
            raise ValueError(
                "`known` must be records of class 1, got some of class 0: a cosine to "
                "those points the other way."
            )
    truth = truth_of(label, seen.step, known=where, ids=ids)
    cosines = _cosines(seen, where)[truth.where]
    found = auc_by_batch(cosines, truth)
    seconds = perf_counter() - start
    noise = _cosines(noise_like(seen, key), where)[truth.where]
    other = auc_by_batch(cosines, truth.shuffled(rng))
    number = distinct(where, ids)
    knows = f"{number} positive records" if number > 1 else "one positive record"
    return Score(
        "cosine",
        target,
        "AUC",
        found.value,
        found.interval,
        auc_by_batch(noise, truth).value,
        found.chance,
        True,
        Adversary(traffic.party, knows, labelled=number, source=SOURCE),
        Budget(0, distinct(seen.step >= 0, ids), seconds),
        {**found.more, "shuffled labels": other.value},
    )


def _one_each(true: np.ndarray, seen: Seen, rng: np.random.Generator) -> np.ndarray:
    """One positive record of each step that has any, drawn."""
    where = np.zeros(len(true), bool)
    positives = rng.permutation(np.flatnonzero(true))
    where[positives[np.unique(seen.step[positives], return_index=True)[1]]] = True
    if not where.any():
        raise ValueError(
            "`label` has no record of class 1, of which one is to be known."
        )
    return where


def _cosines(seen: Seen, known: np.ndarray) -> np.ndarray:
    """The cosine of each row to the mean direction of known ones, of its step or the nearest."""
    having = np.unique(seen.step[known])
    distance = np.abs(np.arange(seen.steps)[:, None] - having)
    nearest = having[distance.argmin(1)]
    return np.asarray(_to_known(seen.rows, known, seen.step, nearest, seen.steps))


@partial(jax.jit, static_argnames="steps")
def _to_known(
    x: jax.Array, known: jax.Array, step: jax.Array, nearest: jax.Array, steps: int
) -> jax.Array:
    directions = units(x)
    kept = jnp.where(known[:, None], directions, 0)
    sums = units(jax.ops.segment_sum(kept, step, num_segments=steps))
    return (directions * sums[nearest[step]]).sum(1)
