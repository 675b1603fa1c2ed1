"""Gaussian mechanisms on batches that are drawn by coins: unseen coins, and seen ones.

Where nobody who is protected against knows who is in a batch, sampling amplifies: an
accountant computes it. Where he knows, only how often a record is drawn counts.
"""

from __future__ import annotations

from functools import cache
from math import exp, inf, lgamma, log, log1p, sqrt
from types import ModuleType

from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.guarantees.gaussian import (
    at_least_0,
    gaussian_delta,
    gaussian_epsilon,
    lowest,
    probability,
)

ACCOUNTANTS = ("pld", "rdp")

_DEVIATIONS = 12
"""Counts further than this from their mean are put on delta, whole."""


def sampled_epsilon(
    noise: float,
    rate: float,
    steps: int,
    delta: float,
    accountant: str = "pld",
) -> float:
    """The epsilon of DP-SGD on Poisson batches whose coins the adversary does not know.

    Two data sets are neighbours if one has a record more (add or remove one). It takes
    the extra `privacy`.

    Args:
        noise: deviation of the noise on the sum of a batch, in units of the clip norm.
        rate: probability with which each record is in a batch, by a coin of its own.
        steps: how many batches.
        delta: above 0, below 1.
        accountant: `"pld"`, privacy loss distributions, tight, slow at little noise; or
            `"rdp"`, Renyi divergences, fast and larger.

    Returns:
        epsilon; infinity if there is no noise.

    Raises:
        ValueError: if an argument is out of range.
        ImportError: without the package `dp-accounting`.

    References:
        Abadi et al., `Deep learning with differential privacy
        <https://arxiv.org/abs/1607.00133>`_, 2016; Koskela, Jalko & Honkela,
        `Computing tight differential privacy guarantees using FFT
        <https://arxiv.org/abs/1906.03049>`_, 2020; Mironov, Talwar & Zhang, `Renyi
        differential privacy of the sampled Gaussian mechanism
        <https://arxiv.org/abs/1908.10530>`_, 2019.

    Example:
        >>> from jsplit.privacy import sampled_epsilon
        >>> round(sampled_epsilon(1.0, 0.01, 100, 1e-5, accountant="rdp"), 2)
        1.21
    """
    at_least_0("noise", noise)
    probability("delta", delta)
    as_positive_int("steps", steps)
    if not 0 < rate <= 1:
        raise ValueError(f"`rate` must lie in (0, 1], got {shown(rate)}.")
    if accountant not in ACCOUNTANTS:
        raise ValueError(
            f'`accountant` must be "pld" or "rdp", got {shown(accountant)}.'
        )
    if noise == 0:
        return inf
    if rate == 1:
        return gaussian_epsilon(delta, sqrt(steps) / noise)
    accounting = _accounting()
    event = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
    if accountant == "pld":
        found = accounting.pld.PLDAccountant()
    else:
        found = accounting.rdp.RdpAccountant()
    return float(found.compose(event, steps).get_epsilon(delta))


def counted_epsilon(mu: float, rate: float, steps: int, delta: float) -> float:
    """The epsilon of a Gaussian mechanism on Poisson batches whose coins all know.

    A record is in k of the batches with a binomial probability, and the adversary knows
    k. So delta is the mean over k of that of k mechanisms: nothing is amplified, but a
    record is not counted in every step either. Two data sets are neighbours if one
    record of them is another one.

    Args:
        mu: of one step in which the record is, of a clipped sum 2 / noise.
        rate: probability with which each record is in a batch.
        steps: how many batches.
        delta: above 0, below 1.

    Returns:
        epsilon, never too small.

    Raises:
        ValueError: if an argument is out of range.

    References:
        The hockey-stick divergence of a pair of results, of which the first has the
        same distribution for both data sets, is the mean of that of the second: Balle,
        Barthe & Gaboardi, `Privacy amplification by subsampling
        <https://arxiv.org/abs/1807.01647>`_, 2018, Section 2.

    Example:
        >>> from jsplit.privacy import counted_epsilon, gaussian_epsilon
        >>> known = counted_epsilon(0.5, rate=0.1, steps=100, delta=1e-5)
        >>> gaussian_epsilon(1e-5, 0.5 * 10**0.5) < known
        True
        >>> known < gaussian_epsilon(1e-5, 0.5 * 100**0.5)
        True
    """
    at_least_0("mu", mu)
    probability("delta", delta)
    steps = as_positive_int("steps", steps)
    if not 0 < rate <= 1:
        raise ValueError(f"`rate` must lie in (0, 1], got {shown(rate)}.")
    most = gaussian_epsilon(delta, mu * sqrt(steps))
    if rate == 1 or most in (0, inf):
        return most
    mean, spread = rate * steps, sqrt(steps * rate * (1 - rate))
    low = max(0, int(mean - _DEVIATIONS * spread))
    high = min(steps, int(mean + _DEVIATIONS * spread) + _DEVIATIONS)
    counts = [(k, _binomial(steps, k, rate)) for k in range(low, high + 1)]
    # What is left out may do the worst.
    rest = max(0.0, 1 - sum(p for _, p in counts))

    def holds(epsilon: float) -> bool:
        found = sum(p * gaussian_delta(epsilon, mu * sqrt(k)) for k, p in counts)
        return rest + found <= delta

    # At very small deltas the rest alone may exceed it; the bound of all steps holds.
    return lowest(holds, most) if holds(most) else most


def _binomial(n: int, k: int, p: float) -> float:
    ways = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(ways + k * log(p) + (n - k) * log1p(-p))


@cache
def _accounting() -> ModuleType:
    """The package that accounts, which `import jsplit` must not import."""
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise ImportError(
            "An accountant of sampled batches takes the package dp-accounting: "
            "pip install 'jsplit[privacy]'."
        ) from error
    return dp_accounting
