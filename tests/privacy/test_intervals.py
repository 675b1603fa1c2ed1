"""Intervals: Student's quantile, and how often the bootstrap and batches hold what they should."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from jsplit.privacy import Estimate, dependence, interval
from jsplit.privacy.measures.student import mean_of, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 6, 31, 32, 400, 401, 5000])
def test_student_s_quantile_is_scipy_s(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-6)


def test_the_interval_of_a_mean_of_batches_is_student_s():
    values = np.array([0.2, 0.5, 0.4, 0.3])
    found = mean_of(values, 40, "t over batches")
    want = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert found.interval == pytest.approx(want)
    assert found.records == 40


def _mean(x):
    return float(x.mean())


@pytest.mark.parametrize("records", [15, 100])
def test_the_bootstrap_holds_a_mean_95_times_of_100(records):
    """Of 15 records too."""
    random, held, draws = np.random.default_rng(0), 0, 400
    for seed in range(draws):
        values = random.normal(3.0, 2.0, records)
        low, high = interval(_mean, [values], jax.random.key(seed), 200)
        held += low <= 3.0 <= high
    assert 0.95 - 0.033 < held / draws < 0.99


def test_the_bootstrap_of_a_mean_is_as_wide_as_the_normal_s():
    values = np.random.default_rng(0).normal(size=1000)
    low, high = interval(_mean, [values], jax.random.key(0), 4000)
    want = 2 * 1.96 * values.std() / np.sqrt(1000)
    assert high - low == pytest.approx(want, rel=0.05)


def test_of_few_records_the_bootstrap_is_as_wide_as_student_s():
    """Plain percentiles are 12 % narrower of 15 records."""
    random, widths = np.random.default_rng(0), []
    for seed in range(20):
        values = random.normal(size=15)
        low, high = interval(_mean, [values], jax.random.key(seed), 1000)
        student = 2 * stats.t.ppf(0.975, 14) * stats.sem(values)
        widths.append((high - low) / student)
    assert np.mean(widths) == pytest.approx(1, abs=0.04)


def test_arrays_are_resampled_together():
    x = np.random.default_rng(0).normal(size=(50, 2))
    low, high = interval(
        lambda a, b: float(np.corrcoef(a[:, 0], b[:, 0])[0, 1]),
        [x, 3 * x],
        jax.random.key(0),
        50,
    )
    assert (low, high) == pytest.approx((1, 1))


def test_a_key_gives_the_same_interval_and_another_key_another():
    values = np.random.default_rng(0).normal(size=30)
    found = [
        interval(_mean, [values], key, 100)
        for key in (jax.random.key(0), jax.random.PRNGKey(0), jax.random.key(1))
    ]
    assert found[0] == found[1] != found[2]


def test_what_is_infinite_of_some_records_has_an_end_at_infinity():
    values = np.array([1.0, 2.0, 3.0, 4.0, np.inf])
    low, high = interval(_mean, [values], jax.random.key(0), 200)
    assert np.isfinite(low) and high == np.inf


def test_batches_hold_what_a_batch_gives_on_average():
    """Biased, corrected and shuffled; the truth is the mean of all that were drawn."""
    random, draws = np.random.default_rng(0), 200
    found = []
    for seed in range(draws):
        x, noise = random.normal(size=(2, 128, 2))
        found.append(dependence(x, x + noise, jax.random.key(seed), batch=16))
    for name in ("biased", "corrected", "shuffled"):
        each: list[Estimate] = [getattr(f, name) for f in found]
        truth = np.mean([e.value for e in each])
        held = np.mean([e.interval[0] <= truth <= e.interval[1] for e in each])
        assert 0.95 - 0.047 < held < 0.99


@pytest.mark.parametrize(
    ("statistic", "arrays", "count", "said"),
    [
        (_mean, [np.ones(1)], 100, "at least 2 records, got 1"),
        (_mean, [], 100, "same records, got none"),
        (max, [np.ones(3), np.ones(4)], 100, r"same records, got \[3, 4\]"),
        (_mean, [np.ones(3)], 10, "`count` must be at least 40, got 10"),
        (_mean, [np.ones(3)], 0, "`count` must be a positive integer"),
        (lambda x: float("nan"), [np.ones(3)], 100, "`statistic` must give numbers"),
    ],
)
def test_what_has_no_interval_is_refused(statistic, arrays, count, said):
    with pytest.raises(ValueError, match=said):
        interval(statistic, arrays, jax.random.key(0), count)
