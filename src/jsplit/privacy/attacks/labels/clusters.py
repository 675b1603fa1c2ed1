"""Clusters of directions: k-means of cotangents tells classes apart and needs no label.

Whoever clusters has the mean of all cotangents of a class, where a known record has one with
its own noise: what hides one direction hides the mean of hundreds far less.
"""

from __future__ import annotations

from time import perf_counter

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.attack import key_or_default, seed_of, units
from jsplit.privacy.attacks.labels.groups import groups_of
from jsplit.privacy.attacks.labels.judging import assignment, by_class
from jsplit.privacy.attacks.labels.kmeans import kmeans
from jsplit.privacy.attacks.labels.seen import Seen, cotangents, noise_like
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

ENOUGH = 4000  # records of a class, on average, for its mean to show through noise
STARTS = 5  # of k-means, of which the best counts
MEMORY = 0.5  # of the centres of steps before, for the next one's to be known by


def direction_clusters(
    traffic: Traffic,
    label: PyTree,
    *,
    classes: int = 2,
    known: PyTree = None,
    value: str | None = None,
    together: int | None = None,
    ids: PyTree = None,
    target: str = "label",
    key: jax.Array | None = None,
) -> Score:
    """Tell classes apart by k-means of the directions of cotangents.

    A passive adversary that knows no label, or one of each class. Steps are clustered
    in turn, as directions change while the model learns; clusters of one are linked
    with those of the step before by their centres, so they bear the same names
    throughout. Names are found by the known records. Without any, they are the ones
    that suit the score best, one choice for all records, and `chance` is what that
    choice gains by luck.

    Args:
        traffic: what the adversary has seen, with cotangents of one value at least.
        label: the truth, [records], from 0 to `classes` - 1; the score is held against it.
        classes: how many, and how many clusters.
        known: records whose label the adversary knows, booleans [records] or places;
            one of each class at least.
        value: whose cotangent is read, where several came.
        together: steps that are clustered together: many show through much noise, few
            follow directions that change fast. By default as many as have 4,000 records
            a class, or all; under strong noise try larger ones, and take `best`.
        ids: [records], who a record is, where records occur in several steps: the
            interval allows for it.
        target: the name of the label, for the score.
        key: a PRNG key, for the starts of k-means and the controls.

    Returns:
        Of two classes the leak AUC, the mean over batches, and else the accuracy.
        `control` is that of isotropic noise in the place of cotangents. `more` has
        "accuracy" and, of two classes, what `norm_attack` has; "balanced accuracy",
        "most frequent" (the share of that class), "shuffled labels".

    Raises:
        ValueError: if no cotangent came to this party, `known` lacks a class, there are
            fewer records than clusters, or shapes do not fit.

    References:
        Lloyd, Least squares quantization in PCM, IEEE Transactions on Information
        Theory 28, 1982. Erdogan et al., `UnSplit <https://arxiv.org/abs/2108.09033>`_,
        2022, attack the same cotangents by matching.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, direction_clusters
        >>> label = jnp.arange(60) % 3
        >>> h = jax.random.normal(jax.random.key(0), (60, 8)) + 9 * jnp.eye(8)[label]
        >>> seen = Traffic("client", jnp.zeros(60, int), returned={"h": h})
        >>> direction_clusters(seen, label, classes=3).value
        1.0
    """
    start = perf_counter()
    seen, key = cotangents(traffic, value), key_or_default(key)
    groups = groups_of(label, seen.step, classes, known, ids)
    window = _windows(seen, classes, together)
    rng = np.random.default_rng(seed_of(key))
    first, other = jax.random.split(key)
    margins = _clustered(_units(seen.rows), window, classes, first)
    found = groups.judged(margins, rng)
    seconds = perf_counter() - start
    shuffled = groups.judged(margins, rng, shuffled=True)
    noise = _units(noise_like(seen, other).rows)
    control = groups.judged(_clustered(noise, window, classes, first), rng)
    number = groups.labelled
    knows = f"{number} records with their labels" if number else "no label"
    source = (
        "k-means of directions; Li et al. 2022 and Erdogan et al. 2022 for the threat"
    )
    return Score(
        "direction clusters",
        target,
        found.measure,
        found.value,
        found.interval,
        control.value,
        found.chance,
        True,
        Adversary(traffic.party, knows, labelled=number, source=source),
        Budget(STARTS * (int(window.max()) + 1), groups.records, seconds, STARTS),
        {**found.more, "shuffled labels": shuffled.value},
    )


_units = jax.jit(units)


@jax.jit
def _alike(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosines of centres to centres, [of a, of b]."""
    return units(a) @ units(b).T


def _windows(seen: Seen, classes: int, together: int | None) -> np.ndarray:
    """Which records are clustered together: the place of each record's window."""
    if together is None:
        sizes = np.bincount(seen.step)
        together = int(np.ceil(ENOUGH * classes / sizes.mean()))
    together = as_positive_int("together", together)
    # The steps that are left over go with the last window: alone they may be too few.
    count = max(1, seen.steps // together)
    window = np.minimum(seen.step // together, count - 1)
    fewest = int(np.bincount(window).min())
    if fewest < classes:
        raise ValueError(
            f"`together` must join steps until they have records for {classes} "
            f"clusters; {together} of them have {fewest}."
        )
    return window


def _clustered(
    x: jax.Array, window: np.ndarray, classes: int, key: jax.Array
) -> np.ndarray:
    """How near each record is to each cluster, [records, clusters], names alike in all windows."""
    size = int(np.bincount(window).max())
    margins = np.empty((len(x), classes), np.float32)
    memory: np.ndarray | None = None
    for number in range(window.max() + 1):
        inside = np.flatnonzero(window == number)
        # Padded to one size: sets of several sizes would each compile k-means anew.
        padded, counts = np.resize(inside, size), np.arange(size) < len(inside)
        step = jax.random.fold_in(key, number)
        centres, squares = map(
            np.asarray, kmeans(step, x[padded], counts, classes, STARTS)
        )
        if memory is None:
            names = np.arange(classes)
        else:
            names = assignment(-np.asarray(_alike(centres, memory)))
        ordered = by_class(centres.T, names).T
        # One bad step should not swap names for all that follow.
        memory = ordered if memory is None else MEMORY * memory + ordered
        margins[inside] = by_class(-squares[: len(inside)], names)
    return margins
