"""Closed forms of epsilon are what integration says, compose as stated, and are never too small."""

from __future__ import annotations

import sys
from math import exp, inf, log, pi, sqrt

import numpy as np
import pytest

from jsplit.privacy import (
    Mechanism,
    composed_mu,
    counted_epsilon,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    laplace_epsilon,
    response_epsilon,
    response_keep,
    sampled_epsilon,
)
from jsplit.privacy.guarantees import sampled


def integrated(epsilon: float, mu: float) -> float:
    """Delta by its definition: what the one density has above exp(epsilon) times the other."""
    x = np.linspace(-15, 15 + mu, 400_001)
    p, q = (np.exp(-((x - m) ** 2) / 2) / sqrt(2 * pi) for m in (mu, 0))
    return float(np.trapezoid(np.maximum(p - exp(epsilon) * q, 0), x))


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
def test_delta_of_a_gaussian_mechanism_is_the_integral_of_its_definition(epsilon, mu):
    assert gaussian_delta(epsilon, mu) == pytest.approx(
        integrated(epsilon, mu), rel=1e-6, abs=1e-10
    )


@pytest.mark.parametrize("mu", [1e-3, 0.2, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_epsilon_and_mu_are_inverses_and_never_on_the_wrong_side(mu, delta):
    epsilon = gaussian_epsilon(delta, mu)
    assert gaussian_delta(epsilon, mu) <= delta
    if epsilon > 0:
        assert gaussian_delta(epsilon * (1 - 1e-6), mu) > delta
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)
    assert gaussian_delta(epsilon, gaussian_mu(epsilon, delta)) <= delta


def test_far_in_the_tail_delta_is_that_of_the_normal_distribution():
    """Balle & Wang's theorem 8 by SciPy, where the second term is as large as the first."""
    stats = pytest.importorskip("scipy.stats")
    for epsilon, mu in ((1.0, 1.0), (40.0, 1.0), (45.0, 1.0), (900.0, 40.0)):
        a = stats.norm.logcdf(mu / 2 - epsilon / mu)
        b = epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu)
        expected = exp(a) - exp(b)
        assert gaussian_delta(epsilon, mu) == pytest.approx(expected, rel=1e-6)


def test_no_noise_and_no_difference_are_the_ends():
    assert gaussian_epsilon(1e-5, 0.0) == 0 == gaussian_delta(0.0, 0.0)
    assert gaussian_epsilon(1e-5, inf) == inf
    assert gaussian_delta(5.0, inf) == 1


def test_composition_is_that_of_one_vector_of_all_results():
    """T draws at distance mu are one draw of T numbers, whose means are sqrt(T) mu apart."""
    rng = np.random.default_rng(0)
    losses = 0.3 * rng.normal(size=(200_000, 25)).sum(1) + 25 * 0.3**2 / 2
    mu = composed_mu([0.3] * 25)
    assert mu == pytest.approx(1.5)
    found = np.maximum(0, 1 - np.exp(1.0 - losses)).mean()
    assert found == pytest.approx(gaussian_delta(1.0, mu), rel=0.02)


def test_laplace_and_response_bound_the_ratio_of_probabilities_and_reach_it():
    x = np.linspace(-30, 30, 10_001)
    ratio = np.abs(np.abs(x - 1) - np.abs(x + 1)) / 3.0
    assert ratio.max() == pytest.approx(laplace_epsilon(3.0))
    for keep, classes in ((0.9, 2), (0.7, 10), (0.25, 4)):
        others = (1 - keep) / (classes - 1)
        epsilon = response_epsilon(keep, classes)
        assert epsilon == pytest.approx(log(keep / others), abs=1e-12)
        assert response_keep(epsilon, classes) == pytest.approx(keep)
    assert response_epsilon(1.0, 3) == inf
    assert response_keep(3.0, 2) == pytest.approx(0.9526, abs=1e-4)


def test_seen_coins_cost_the_mean_over_how_often_a_record_is_drawn():
    """By a plain sum over all counts, at the epsilon that was found."""
    mu, rate, steps, delta = 0.7, 0.2, 30, 1e-4
    epsilon = counted_epsilon(mu, rate, steps, delta)
    rng = np.random.default_rng(1)
    counts = np.bincount(rng.binomial(steps, rate, 400_000), minlength=steps + 1)
    mean = sum(
        c / 400_000 * gaussian_delta(epsilon, mu * sqrt(k))
        for k, c in enumerate(counts)
    )
    assert mean == pytest.approx(delta, rel=0.05)
    assert counted_epsilon(mu, 1.0, steps, delta) == pytest.approx(
        gaussian_epsilon(delta, mu * sqrt(steps))
    )


def test_the_accountants_agree_with_the_closed_form_where_nothing_is_sampled():
    """To four decimals, of few steps: privacy loss distributions of little noise take long."""
    accounting = sampled._accounting()
    event = accounting.GaussianDpEvent(4.0)
    found = accounting.pld.PLDAccountant().compose(event, 4).get_epsilon(1e-5)
    assert found == pytest.approx(
        gaussian_epsilon(1e-5, composed_mu([0.25] * 4)), abs=1e-4
    )
    assert sampled_epsilon(4.0, 1.0, 4, 1e-5) == pytest.approx(found, abs=1e-4)


def test_unseen_coins_cost_less_than_seen_ones_and_more_than_none():
    seen = counted_epsilon(1 / 1.5, 0.05, 50, 1e-5)
    unseen = sampled_epsilon(1.5, 0.05, 50, 1e-5, accountant="rdp")
    assert 0 < unseen < seen < gaussian_epsilon(1e-5, sqrt(50) / 1.5)
    assert sampled_epsilon(0.0, 0.05, 50, 1e-5) == inf


def test_without_the_extra_the_accountant_says_what_to_install(monkeypatch):
    sampled._accounting.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'jsplit\[privacy\]'"):
        sampled_epsilon(1.0, 0.1, 10, 1e-5)
    sampled._accounting.cache_clear()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian_delta(-1, 1), "`epsilon` must be at least 0, got -1"),
        (lambda: gaussian_delta(1, float("nan")), "`mu` must be at least 0, got nan"),
        (lambda: gaussian_epsilon(0.0, 1), r"`delta` must lie in \(0, 1\), got 0.0"),
        (lambda: composed_mu([1, -1]), "`mus` must be at least 0, got -1"),
        (lambda: laplace_epsilon(0), "`scale` must be positive, got 0"),
        (lambda: response_epsilon(0.4, 2), r"`keep` must lie in \[1 / 2, 1\], got 0.4"),
        (lambda: response_keep(1.0, 1), "`classes` must be at least 2, got 1"),
        (lambda: sampled_epsilon(1, 0, 1, 0.1), r"`rate` must lie in \(0, 1\], got 0"),
        (
            lambda: sampled_epsilon(1, 0.1, 1, 0.1, accountant="x"),
            '`accountant` must be "pld" or "rdp"',
        ),
        (lambda: counted_epsilon(1, 2, 1, 0.1), r"`rate` must lie in \(0, 1\], got 2"),
        (lambda: Mechanism(""), "`kind` must be a name"),
        (lambda: Mechanism("gaussian", clip=0), "`clip` must be positive, got 0"),
        (
            lambda: Mechanism("gaussian", scale=-1),
            "`scale` must be at least 0 and finite, got -1",
        ),
        (
            lambda: Mechanism("gaussian", grid=-1),
            "`grid` must be at least 0 and finite",
        ),
        (lambda: Mechanism("gaussian", per="x"), '`per` must be "record"'),
        (lambda: Mechanism("response", keep=0.1), r"`keep` must lie in \[1 / 2, 1\]"),
        (
            lambda: Mechanism("gaussian", scale="s").at({}),
            "`strengths` has no `s`, which is the scale",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_epsilon_is_never_too_small_where_delta_loses_all_its_digits():
    for mu in (2e6, 4e10, 1e100):
        # Of epsilon = mu^2 / 2 delta is about 1 / 2.
        assert gaussian_epsilon(1e-5, mu) > mu * mu / 2


def test_a_mechanism_s_numbers_are_of_64_bits_whatever_was_given():
    for given in (np.float16(20), np.float32(20), 20):
        scale = Mechanism("gaussian", scale=given).scale
        assert scale == 20.0 and type(scale) is float
    for wrong in (True, np.ones(2), 1j):
        with pytest.raises(ValueError, match="`scale` must be at least 0"):
            Mechanism("gaussian", scale=wrong)
