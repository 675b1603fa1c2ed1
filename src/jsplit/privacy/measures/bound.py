"""A lower bound of the mutual information of two values, from records that were held back.

Of vectors no estimate of mutual information can be trusted: what can be shown is that
there is at least so much. A model of the dependence is fitted on some records, and what it
finds in others is a bound, however wrong the model is.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.privacy.measures.bootstrap import interval
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.probes import is_classes, split_records
from jsplit.privacy.measures.records import at_least, generator, host_flat, paired
from jsplit.privacy.measures.student import mean_of

TEST = 0.5
"""This share of the records is held back."""

_MOST = 0.9995
"""A correlation is taken to be at most so high, so that its logarithm is finite."""


def information_bound(
    x: PyTree, y: PyTree, key: jax.Array, *, batch: int = 128, rank: int = 32
) -> Estimate:
    """Bound the mutual information of two values of the same records from below, in nats.

    **It is a lower bound**: there may be any amount more. Where `y` is of classes
    (integers or booleans, one a record) it is their entropy less the cross-entropy
    of a logistic regression on `x`. Else it is InfoNCE with the critic of two
    Gaussian values, their canonical correlations: what is linear is found, and at
    most the logarithm of `batch` can be (4.85 nats of 128). A value below 0 says
    nothing. The interval is of what this model shows: information is above its
    lower end with 97.5 % confidence. As a metric:
    `jsplit.Metric("nats", lambda h, y: information_bound(h, y, key).value, ...)`.

    Args:
        x: [records, ...], or a pytree of such arrays.
        y: the same of the other value, or [records] of classes.
        key: what records are held back by, and the bootstrap of classes draws from.
        batch: how many records each is to be found among; of classes not used.
        rank: how many directions of each value are looked at, those in which it
            varies most; fewer where records are few.

    Returns:
        The bound in nats; divided by log 2 it is in bits.

    Raises:
        ValueError: if records do not pair, one is not finite, a class has too few
            or there is only one, or there are fewer than 4 batches.

    References:
        Barber and Agakov, The IM algorithm, NIPS 2003; van den Oord, Li and Vinyals,
        `Representation learning with contrastive predictive coding
        <https://arxiv.org/abs/1807.03748>`_, 2018; Poole et al., `On variational
        bounds of mutual information <https://arxiv.org/abs/1905.06922>`_, 2019,
        equation 10.

    Example:
        >>> import jax, numpy as np
        >>> from jsplit.privacy import information_bound
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 1024, 2))
        >>> found = information_bound(x, x + noise, jax.random.key(0))
        >>> found.interval[0] < float(np.log(2)) < found.interval[1]
        True
    """
    batch, rank = as_positive_int("batch", batch), as_positive_int("rank", rank)
    classes = is_classes(y)
    a, b = host_flat("x", x), host_flat("y", y)
    paired("x", a, "y", b)
    if classes:
        return _of_classes(a, b.reshape(-1), key)
    if batch < 2:
        raise ValueError(f"`batch` must be at least 2, got {batch}.")
    at_least(len(a), 4 * batch, f"a bound of information in batches of {batch}")
    rows = generator(key).permutation(len(a))
    held, fit = np.split(rows, [int(TEST * len(a))])
    critic = _fitted(a[fit], b[fit], rank)
    # Batches of exactly this size: one record more could show more than its logarithm.
    batches = held[: len(held) // batch * batch].reshape(-1, batch)
    values = [_info_nce(critic, a[rows], b[rows]) for rows in batches]
    return mean_of(np.array(values), batches.size, "t over batches")


def _of_classes(x: np.ndarray, y: np.ndarray, key: jax.Array) -> Estimate:
    """The entropy of classes less the cross-entropy of a model of them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds, numbers = np.unique(y, return_inverse=True)
    if len(kinds) < 2:
        raise ValueError("`y` must have records of two classes at least, got one.")
    keys = jax.random.split(key)
    fit, held = split_records(numbers, len(x), keys[0], TEST)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    logs = model.fit(x[fit], numbers[fit]).predict_log_proba(x[held])
    found = numbers[held]
    own = logs[np.arange(len(held)), found]

    def bound(own: np.ndarray, found: np.ndarray) -> float:
        shares = np.bincount(found) / len(found)
        shares = shares[shares > 0]
        # Of few records this entropy is too small, which keeps it a lower bound.
        return float(own.mean() - (shares * np.log(shares)).sum())

    ends = interval(bound, [own, found], keys[1])
    return Estimate(bound(own, found), ends, len(held), "bootstrap")


@dataclass(frozen=True)
class _Critic:
    """Canonical directions of two values, and their correlations."""

    means: tuple[np.ndarray, np.ndarray]
    directions: tuple[np.ndarray, np.ndarray]  # [numbers, rank]
    correlations: np.ndarray  # [rank]

    def score(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Joint over product density, its logarithm, of all pairs, [x, y]."""
        u = (x - self.means[0]) @ self.directions[0]
        v = (y - self.means[1]) @ self.directions[1]
        r = self.correlations
        own = r / (2 * (1 - r * r))
        apart = (u * u * r) @ own
        other = (v * v * r) @ own
        both = (u * 2 * own) @ v.T
        # Without the constant: among the records of a batch it makes no difference.
        return both - apart[:, None] - other


def _fitted(x: np.ndarray, y: np.ndarray, rank: int) -> _Critic:
    """Directions from one half of the records, correlations along them from the other."""
    # From the same records they would be too high: of as many directions as records
    # all are 1.
    half = len(x) // 2
    means = x[:half].mean(0), y[:half].mean(0)
    # Ten records for a direction, else what is found there is chance.
    most = min(rank, max(1, half // 10))
    whites = [
        _whitening(z[:half] - m, most) for z, m in zip((x, y), means, strict=True)
    ]
    u, v = ((z[:half] - m) @ w for z, m, w in zip((x, y), means, whites, strict=True))
    left, _, right = np.linalg.svd(u.T @ v / half, full_matrices=False)
    directions = whites[0] @ left, whites[1] @ right.T
    u, v = (
        (z[half:] - m) @ d for z, m, d in zip((x, y), means, directions, strict=True)
    )
    scales = [np.maximum(z.std(0), 1e-12) for z in (u, v)]
    found = ((u - u.mean(0)) * (v - v.mean(0))).mean(0) / (scales[0] * scales[1])
    # Below 0 the direction was chance.
    correlations = np.clip(found, 0, _MOST)
    scaled = directions[0] / scales[0], directions[1] / scales[1]
    return _Critic(means, scaled, correlations)


def _whitening(x: np.ndarray, most: int) -> np.ndarray:
    """A matrix after which the directions of most variance have variance 1."""
    # Of the smaller of the two products, whose size is numbers or records squared.
    wide = x.shape[1] > len(x)
    squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    squares, vectors = squares[::-1][:most], vectors[:, ::-1][:, :most]
    # What varies a millionth as much as the rest is rounding.
    kept = squares > 1e-12 * max(squares[0], 1e-300)
    squares, vectors = squares[kept], vectors[:, kept]
    if wide:
        vectors = x.T @ vectors / np.sqrt(squares)
    return vectors * np.sqrt(len(x) / squares)


def _info_nce(critic: _Critic, x: np.ndarray, y: np.ndarray) -> float:
    """How much likelier each record's own partner is than all of the batch."""
    scores = critic.score(x, y)
    top = scores.max(1, keepdims=True)
    total = np.log(np.exp(scores - top).mean(1)) + top[:, 0]
    return float((np.diagonal(scores) - total).mean())
