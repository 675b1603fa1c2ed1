"""The Gaussian mechanism in closed form: delta of epsilon, its inverses, and composition.

All is said by one number, mu: how far the two means are apart that a change of one
record gives, in deviations of the noise. Of mechanisms one after another mu is the root
of the sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import erfc, exp, expm1, fsum, inf, isfinite, log, log1p, pi, sqrt

from jsplit.core.checks import shown

_LARGE = 1e6  # from where on epsilon is given by its bound
_TAIL = -30.0
"""Below it the distribution function of a normal is computed by its series."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The smallest delta at which a Gaussian mechanism is (epsilon, delta)-private.

    It is Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu), exactly.

    Args:
        epsilon: at least 0.
        mu: sensitivity divided by the deviation of the noise, at least 0.

    Returns:
        delta, from 0 to 1.

    Raises:
        ValueError: if one of them is negative or NaN.

    References:
        Balle & Wang, `Improving the Gaussian mechanism for differential privacy
        <https://arxiv.org/abs/1805.06530>`_, 2018, Theorem 8.

    Example:
        >>> from jsplit.privacy import gaussian_delta
        >>> round(gaussian_delta(1.0, 1.0), 6)
        0.126937
    """
    at_least_0("epsilon", epsilon)
    at_least_0("mu", mu)
    if mu == 0:
        return 0.0
    if mu == inf:
        return 1.0
    first = _log_cdf(mu / 2 - epsilon / mu)
    second = epsilon + _log_cdf(-mu / 2 - epsilon / mu)
    # The difference of the two by their logarithms: exp(epsilon) overflows from 710 on.
    return exp(first) * max(0.0, -expm1(min(0.0, second - first)))


def gaussian_epsilon(delta: float, mu: float) -> float:
    """The smallest epsilon at which a Gaussian mechanism is (epsilon, delta)-private.

    It is never too small: of the last interval of a bisection it is the upper end.

    Args:
        delta: above 0, below 1.
        mu: sensitivity divided by the deviation of the noise, at least 0.

    Returns:
        epsilon; infinity if `mu` is.

    Raises:
        ValueError: if one of them is out of range.

    References:
        Balle & Wang, `Improving the Gaussian mechanism for differential privacy
        <https://arxiv.org/abs/1805.06530>`_, 2018, Algorithm 1, solved for epsilon.

    Example:
        >>> from jsplit.privacy import gaussian_epsilon
        >>> round(gaussian_epsilon(1e-5, 1.0), 4)
        4.3772
    """
    probability("delta", delta)
    at_least_0("mu", mu)
    if not isfinite(mu):
        return inf
    # Zero-concentrated privacy of mu^2 / 2 bounds it from above.
    most = mu * mu / 2 + mu * sqrt(2 * log(1 / delta))
    if mu > _LARGE:
        # There the bound is nearly exact, and in delta all digits cancel.
        return most * (1 + 1e-12)
    return lowest(lambda epsilon: gaussian_delta(epsilon, mu) <= delta, most)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest mu at which a Gaussian mechanism is (epsilon, delta)-private.

    The noise that it takes is the sensitivity divided by mu: for a vector of norm at
    most C that may be replaced by another 2 C / mu.

    Args:
        epsilon: at least 0.
        delta: above 0, below 1.

    Returns:
        mu, never too large.

    Raises:
        ValueError: if one of them is out of range.

    References:
        Balle & Wang, `Improving the Gaussian mechanism for differential privacy
        <https://arxiv.org/abs/1805.06530>`_, 2018, Algorithm 1.

    Example:
        >>> from jsplit.privacy import gaussian_epsilon, gaussian_mu
        >>> mu = gaussian_mu(epsilon=2.0, delta=1e-5)
        >>> round(gaussian_epsilon(1e-5, mu), 6)
        2.0
    """
    at_least_0("epsilon", epsilon)
    probability("delta", delta)
    most = 1.0
    while gaussian_delta(epsilon, most) <= delta:
        most *= 2
    # By the inverse of mu, which has a smallest one that will do.
    inverse = lowest(
        lambda s: gaussian_delta(epsilon, 1 / s) <= delta, 1e12, 0.5 / most
    )
    return 1 / inverse


def composed_mu(mus: Iterable[float]) -> float:
    """The mu of Gaussian mechanisms one after another, each of which sees the results before.

    It is the root of the sum of squares: of the same mechanism T times, sqrt(T) mu.

    Args:
        mus: of each of them, at least 0.

    Returns:
        mu of all together, 0 of none.

    Raises:
        ValueError: if one is negative or NaN.

    References:
        Dong, Roth & Su, `Gaussian differential privacy
        <https://arxiv.org/abs/1905.02383>`_, 2019, Corollary 3.3.

    Example:
        >>> from jsplit.privacy import composed_mu
        >>> composed_mu([0.3, 0.4])
        0.5
    """
    mus = [at_least_0("mus", mu) for mu in mus]
    return sqrt(fsum(mu * mu for mu in mus))


def lowest(holds: Callable[[float], bool], most: float, least: float = 0.0) -> float:
    """The smallest number at which something holds that holds from there on.

    Args:
        holds: asked by bisection.
        most: a number at which it holds.
        least: where the search begins.
    """
    if holds(least):
        return least
    while not holds(most):
        # Only where rounding has made the bound a little too small.
        most *= 1.01
    while True:
        middle = (least + most) / 2
        if most - least <= 1e-12 * most or not least < middle < most:
            return most
        least, most = (least, middle) if holds(middle) else (middle, most)


def _log_cdf(x: float) -> float:
    """The logarithm of the distribution function of a standard normal."""
    if x > _TAIL:
        return log(erfc(-x / sqrt(2)) / 2)
    # The asymptotic series: `erfc` is 0 from 38 deviations on.
    square = 1 / (x * x)
    series = log1p(-square * (1 - 3 * square * (1 - 5 * square)))
    return -x * x / 2 - log(-x * sqrt(2 * pi)) + series


def at_least_0(name: str, value: float) -> float:
    """Refuse a negative number or NaN."""
    if not value >= 0:
        raise ValueError(f"`{name}` must be at least 0, got {shown(value)}.")
    return float(value)


def probability(name: str, value: float) -> float:
    """Refuse what does not lie between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must lie in (0, 1), got {shown(value)}.")
    return float(value)
