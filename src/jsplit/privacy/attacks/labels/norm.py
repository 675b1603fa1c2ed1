"""The norm attack: a cotangent is long where the model is wrong, so rare classes have long ones.

With a loss of cross entropy its norm is |p - y| times something that hardly depends on the
label. A model that has learned that few are positive is nearly right of all others.
"""

from __future__ import annotations

from time import perf_counter

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import one_of
from jsplit.privacy.attacks.attack import key_or_default, seed_of
from jsplit.privacy.attacks.labels.judging import auc_by_batch
from jsplit.privacy.attacks.labels.seen import (
    cotangents,
    distinct,
    noise_like,
    truth_of,
)
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Li et al., Label leakage and protection in two-party split learning, 2022"


def norm_attack(
    traffic: Traffic,
    label: PyTree,
    *,
    value: str | None = None,
    rare: int | None = None,
    ids: PyTree = None,
    target: str = "label",
    key: jax.Array | None = None,
) -> Score:
    """Tell two classes apart by the norms of cotangents.

    A passive adversary that knows nothing but which class is the rarer one: longer
    cotangents are suspected to be of that. It uses no label.

    Args:
        traffic: what the adversary has seen, with cotangents of one value at least.
        label: the truth, [records], 0 or 1; only the score is held against it.
        value: whose cotangent is read, where several came.
        rare: the class whose cotangents are suspected to be longer, 0 or 1; by
            default the rarer one of `label`.
        ids: [records], who a record is, where records occur in several steps: the
            interval allows for it. By default no record occurs twice.
        target: the name of the label, for the score.
        key: a PRNG key, for the controls; by default always the same.

    Returns:
        The leak AUC, the mean over batches. `control` is that of isotropic noise in the
        place of cotangents. `more` has "max" and "95 % quantile" over batches,
        "batches", "batches of one class" (left out), and "shuffled labels".

    Raises:
        ValueError: if no cotangent came to this party, there are other classes than 0
            and 1, or shapes do not fit.

    References:
        Li et al., `Label leakage and protection in two-party split learning
        <https://arxiv.org/abs/2102.08504>`_, 2022, section 3.1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, norm_attack
        >>> label = jnp.arange(64) % 4 == 0
        >>> h = jax.random.normal(jax.random.key(0), (64, 3)) * (1 + 9 * label)[:, None]
        >>> seen = Traffic("client", jnp.zeros(64, int), returned={"h": h})
        >>> norm_attack(seen, label).value > 0.9
        True
    """
    start = perf_counter()
    seen, key = cotangents(traffic, value), key_or_default(key)
    truth = truth_of(label, seen.step, ids=ids)
    if rare is None:
        rare = int(truth.label.mean() < 0.5)
    one_of("rare", rare, (0, 1))
    sign = 2 * rare - 1
    found = auc_by_batch(sign * _norms(seen.rows), truth)
    seconds = perf_counter() - start
    control = auc_by_batch(sign * _norms(noise_like(seen, key).rows), truth)
    shuffled = truth.shuffled(np.random.default_rng(seed_of(key)))
    # The same norms: what is left is the number of records alone.
    other = auc_by_batch(sign * _norms(seen.rows), shuffled)
    return Score(
        "norm",
        target,
        "AUC",
        found.value,
        found.interval,
        control.value,
        found.chance,
        True,
        Adversary(traffic.party, "which class is the rarer one", source=SOURCE),
        Budget(0, distinct(seen.step >= 0, ids), seconds),
        {**found.more, "shuffled labels": other.value},
    )


def _norms(x: jax.Array) -> np.ndarray:
    """The norm of each row, on the host: in 32 bits squares of 1e-30 are 0, of 1e30 infinite."""
    return np.linalg.norm(np.asarray(x, np.float64), axis=1)
