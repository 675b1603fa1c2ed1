"""Auditing: canaries whose scores prove that epsilon is at least so large.

An accountant's epsilon is an upper bound, if the code does what it was told. The lower
bound here is of what the code did. Where it lies above, there is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.guarantees.gaussian import probability

_Rate = Callable[[int, int, float], float]
"""The lower end of an interval of a rate: of so many of so many, wrong so rarely."""


@dataclass(frozen=True)
class Audit:
    """A lower bound of epsilon.

    Attributes:
        epsilon: with the stated confidence the true one is at least this.
        delta: at which it is so.
        confidence: probability with which the bound holds.
        method: `"one run"` or `"runs"`.
        canaries: how many scores there were.
        guesses: how many of them were guessed, with the best of the tried numbers.
        correct: how many of these rightly.

    Example:
        >>> from jsplit.privacy import Audit
        >>> Audit(3.2, 1e-5, 0.95, "one run", 100, 50, 49).refutes(1.0)
        True
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    canaries: int
    guesses: int
    correct: int

    def refutes(self, epsilon: float) -> bool:
        """Whether a claimed epsilon is too small, at the confidence of the audit.

        Args:
            epsilon: what an accountant or a closed form says, at the same delta.

        Returns:
            Whether the bound lies above it.

        Example:
            >>> from jsplit.privacy import Audit
            >>> Audit(0.4, 1e-5, 0.95, "one run", 100, 50, 30).refutes(1.0)
            False
        """
        return self.epsilon > epsilon


def audit(
    inside: ArrayLike,
    outside: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    method: str = "one run",
    guesses: int | Sequence[int] | None = None,
    seed: int = 0,
) -> Audit:
    """A lower bound of epsilon from scores of canaries.

    A canary is a record of the auditor's. A coin decides whether it is in (or which of
    two records stands in its place). Its score is any number that should be larger if
    it was in: minus its loss, or how far what was released lies in its direction.

    Args:
        inside: scores of the canaries that were in, float [n].
        outside: scores of those that were not, float [m].
        delta: at which epsilon is bounded, from 0 on.
        confidence: probability with which the bound holds.
        method: `"one run"`: all canaries were in one run, each by an independent fair
            coin; `"runs"`: each score is of a run of its own (or of releases that are
            independent of each other), of which a half finds a threshold and the other
            half is counted.
        guesses: of one run, how many canaries are guessed, those with the largest and
            those with the smallest scores; several are tried, and their number is paid
            for. By default a tenth, a third and all.
        seed: of the order of equal scores, and of the halves.

    Returns:
        The bound, 0 if nothing is proven.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Steinke, Nasr & Jagielski, `Privacy auditing with one (1) training run
        <https://arxiv.org/abs/2305.08846>`_, 2023, Theorem 5.2 and Appendix D; Jagielski,
        Ullman & Oprea, `Auditing differentially private machine learning
        <https://arxiv.org/abs/2006.07709>`_, 2020; Clopper & Pearson, 1934.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import audit
        >>> bare = audit(np.ones(500), np.zeros(500), delta=1e-5)
        >>> round(bare.epsilon, 1)
        5.5
    """
    scores = [_scores("inside", inside), _scores("outside", outside)]
    if not 0 <= delta < 1:
        raise ValueError(f"`delta` must lie in [0, 1), got {shown(delta)}.")
    probability("confidence", confidence)
    rng = np.random.default_rng(seed)
    if method == "runs":
        return _of_runs(scores[0], scores[1], delta, confidence, rng)
    if method != "one run":
        raise ValueError(f'`method` must be "one run" or "runs", got {shown(method)}.')
    total = sum(map(len, scores))
    if guesses is None:
        guesses = sorted({max(1, total // 10), max(1, total // 3), total})
    tried = [guesses] if isinstance(guesses, int) else list(guesses)
    if not tried:
        raise ValueError("`guesses` must be at least one number, got none.")
    for r in tried:
        if as_positive_int("guesses", r) > total:
            raise ValueError(f"`guesses` is {r}, but there are only {total} canaries.")
    # Equal scores stand in an order drawn at random: in that of the arguments those that
    # were in would come first, and an attacker does not know which these are.
    order = rng.permutation(total)
    score = np.concatenate(scores)[order]
    was_in = np.concatenate([np.ones(len(scores[0])), np.zeros(len(scores[1]))])[order]
    was_in = was_in[np.argsort(-score, kind="stable")]
    fault = (1 - confidence) / len(tried)
    found = []
    for r in tried:
        low = r // 2
        high = r - low
        correct = int(was_in[:high].sum() + (1 - was_in[total - low :]).sum())
        epsilon = _one_run(total, r, correct, delta, fault)
        found.append(Audit(epsilon, delta, confidence, method, total, r, correct))
    return max(found, key=lambda a: a.epsilon)


def _one_run(
    total: int, guesses: int, correct: int, delta: float, fault: float
) -> float:
    """The smallest epsilon at which so many correct guesses are no surprise."""

    def surprising(epsilon: float) -> bool:
        weights = _binomial(guesses, 1 / (1 + exp(-epsilon)))
        tail = weights[correct:].sum()
        # What delta can do at most: it moves results in which i guesses less were right.
        sums = np.cumsum(weights[:correct][::-1])
        most = (sums / np.arange(1, correct + 1)).max(initial=0)
        return bool(tail + 2 * total * delta * most < fault)

    return _largest(surprising)


def _of_runs(
    inside: np.ndarray,
    outside: np.ndarray,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
) -> Audit:
    if min(len(inside), len(outside)) < 2:
        raise ValueError("`inside` and `outside` must have at least 2 scores each.")
    first_in, then_in = _halves(rng.permutation(inside))
    first_out, then_out = _halves(rng.permutation(outside))
    # Two rates are bounded, each on one side, and both ways below use these two.
    fault = (1 - confidence) / 2

    def bound(
        x_in: np.ndarray, x_out: np.ndarray, threshold: float, rate: _Rate
    ) -> tuple[float, int]:
        hits, misses = int((x_in >= threshold).sum()), int((x_out < threshold).sum())
        true_in, true_out = (
            rate(hits, len(x_in), fault),
            rate(misses, len(x_out), fault),
        )
        ways = ((true_in, 1 - true_out), (true_out, 1 - true_in))
        found = [log((t - delta) / f) for t, f in ways if t > delta and f > 0]
        return max(found, default=0.0), hits + misses

    # The threshold is of scores that are not counted: else it would fit their noise.
    # It may be found by a rough bound; what is said is by the exact one.
    candidates = np.quantile(
        np.concatenate([first_in, first_out]), np.linspace(0, 1, 41)
    )
    best = max(
        candidates, key=lambda t: bound(first_in, first_out, float(t), _wilson)[0]
    )
    epsilon, correct = bound(then_in, then_out, float(best), _clopper_pearson)
    total = len(inside) + len(outside)
    counted = len(then_in) + len(then_out)
    return Audit(max(0.0, epsilon), delta, confidence, "runs", total, counted, correct)


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[: len(x) // 2], x[len(x) // 2 :]


def _wilson(hits: int, n: int, fault: float) -> float:
    """About the lower end of an interval of a rate, in closed form."""
    z = NormalDist().inv_cdf(1 - fault)
    p = hits / n
    middle, spread = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return max(0.0, (middle - spread) / (1 + z * z / n))


def _clopper_pearson(hits: int, n: int, fault: float) -> float:
    """The lower end of Clopper and Pearson's interval of a rate."""
    low, high = 0.0, hits / n
    for _ in range(50):
        middle = (low + high) / 2
        tail = _binomial(n, middle)[hits:].sum()
        low, high = (middle, high) if tail < fault else (low, middle)
    return low


def _largest(holds: Callable[[float], bool]) -> float:
    """The largest epsilon that something holds of; it holds below and not above."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    # From 50 on the rate is 1 to the last bit.
    while high < 50 and holds(high):
        low, high = high, high + 1
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _binomial(n: int, p: float) -> np.ndarray:
    """The probabilities of 0 to n, float [n + 1]."""
    k = np.arange(n + 1)
    if p <= 0 or p >= 1:
        return (k == (n if p >= 1 else 0)).astype(float)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return np.exp(logs[n] - logs - logs[::-1] + k * log(p) + (n - k) * np.log1p(-p))


def _scores(name: str, given: ArrayLike) -> np.ndarray:
    x = np.asarray(given, dtype=float)
    if x.ndim != 1 or not len(x):
        raise ValueError(
            f"`{name}` must be a vector of scores, got shape {list(x.shape)}."
        )
    if np.isnan(x).any():
        raise ValueError(f"`{name}` has NaN: a score must be a number.")
    return x
