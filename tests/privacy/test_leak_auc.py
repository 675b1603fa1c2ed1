"""AUC and rates: exact with ties, closed forms, and intervals that are honest at the ends."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from jsplit.privacy import accuracy, balanced_accuracy, leak_auc, rate


def draw(seed: int, positives: int, negatives: int, apart: float):
    random = np.random.default_rng(seed)
    score = np.concatenate(
        [random.normal(apart, 1, positives), random.normal(0, 1, negatives)]
    )
    return score, np.arange(positives + negatives) < positives


@pytest.mark.parametrize("rounding", [None, 0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_share_of_pairs_in_order_ties_half(seed, rounding):
    score, label = draw(seed, 13, 31, 0.7)
    score = score if rounding is None else score.round(rounding)
    high, low = score[label][:, None], score[~label][None]
    brute = (high > low).mean() + 0.5 * (high == low).mean()
    found = leak_auc(score, label)
    assert found.value == pytest.approx(brute, abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found.interval[0] < found.value < found.interval[1]


def test_scores_that_differ_in_the_last_of_64_bits_are_no_tie():
    score = np.array([1.0, 1.0 + 1e-12])
    assert leak_auc(score, np.array([0, 1])).value == 1


def test_of_two_normal_classes_it_is_the_closed_form():
    from statistics import NormalDist

    score, label = draw(0, 4000, 4000, 1.0)
    found = leak_auc(score, label)
    low, high = found.interval
    assert low < NormalDist().cdf(2**-0.5) < high
    assert high - low < 0.025 and found.method == "DeLong"


def test_it_depends_on_the_order_of_scores_alone():
    score, label = draw(1, 20, 50, 0.5)
    found = leak_auc(score, label)
    assert leak_auc(np.exp(score), label) == found
    mirrored = leak_auc(-score, label)
    assert mirrored.value == pytest.approx(1 - found.value)
    ends = (1 - found.interval[1], 1 - found.interval[0])
    assert mirrored.interval == pytest.approx(ends)
    assert leak_auc(jnp.asarray(score)[:, None], label * 1).value == pytest.approx(
        found.value, abs=1e-3
    )


def test_delong_s_variance_is_that_of_the_placements():
    """From all pairs, as DeLong 1988 writes it."""
    score, label = draw(2, 40, 60, 0.8)
    order = (score[label][:, None] > score[~label][None]) * 1.0
    variance = order.mean(1).var(ddof=1) / 40 + order.mean(0).var(ddof=1) / 60
    auc = order.mean()
    low, high = leak_auc(score, label).interval
    width = np.log(high / (1 - high)) - np.log(low / (1 - low))
    want = 2 * 1.959964 * np.sqrt(variance) / (auc * (1 - auc))
    assert width == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("records", "low"), [(5, 0.6), (50, 0.92), (500, 0.99)])
def test_where_all_pairs_are_in_order_the_interval_still_has_a_width(records, low):
    score = np.arange(2 * records)
    found = leak_auc(score, score >= records)
    assert (found.value, found.method, found.interval[1]) == (1, "Newcombe", 1)
    assert low < found.interval[0] < 1 - 1e-4
    # It is so many of its own deviations away, by the variance of Hanley and McNeil.
    end = found.interval[0]
    beside = end / (2 - end) + 2 * end**2 / (1 + end) - 2 * end**2
    variance = (end * (1 - end) + (records - 1) * beside) / records**2
    assert 1 - end == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-4)
    assert leak_auc(-score, score >= records).interval[0] == 0


def test_of_equal_scores_the_interval_is_as_wide_as_of_scores_that_say_nothing():
    """A number that one record of a hundred has is in none of twenty, and may tell much."""
    found = leak_auc(np.zeros(40), np.arange(40) % 2)
    low, high = found.interval
    assert (found.value, found.method) == (0.5, "Newcombe")
    # As a score of two values, each as frequent in both classes, at its widest.
    assert 0.3 < low < 0.4 and low + high == pytest.approx(1)


@pytest.mark.parametrize(
    ("positives", "negatives", "apart"),
    [(60, 60, 0.5), (50, 200, 1.2), (50, 500, 3.5), (100, 900, 2.5)],
)
def test_its_interval_holds_the_closed_form_95_times_of_100(
    positives, negatives, apart
):
    from statistics import NormalDist

    exact, draws = NormalDist().cdf(apart / 2**0.5), 400
    held = 0
    for seed in range(draws):
        low, high = leak_auc(*draw(seed, positives, negatives, apart)).interval
        held += low <= exact <= high
    # Three standard deviations of a rate of 400; Newcombe's errs to the safe side.
    assert 0.95 - 0.033 < held / draws < 0.99


@pytest.mark.parametrize(
    ("score", "label", "said"),
    [
        (np.ones(4), np.ones(4), "records of 0 and of 1, got 1 classes"),
        (np.ones(4), np.arange(4), "got 4 classes"),
        (np.ones(4), np.array([1, 2, 1, 2]), "records of 0 and of 1"),
        (np.ones(4), np.array([0, 1, 0]), "same records, got 4 and 3"),
        (np.array([1, np.nan, 2, 3]), np.array([0, 1, 0, 1]), "`score` holds NaN"),
        (np.ones((4, 2)), np.array([0, 1, 0, 1]), "one number for each record"),
        (np.ones(4), np.array([0, 1, 0.5, 1]), "`label` must hold classes"),
        (np.ones(0), np.ones(0), "`score` must have one row for each record"),
    ],
)
def test_what_has_no_auc_is_refused(score, label, said):
    with pytest.raises(ValueError, match=said):
        leak_auc(score, label)


def test_no_refusal_tells_a_score():
    with pytest.raises(ValueError) as told:
        leak_auc(np.array([123.25, np.nan]), np.array([0, 1]))
    assert "123" not in str(told.value)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9, 0.99])
def test_wilson_s_interval_holds_95_of_100_exactly_summed(share):
    """Over all that can come out of 100 trials, each as often as it does."""
    from math import comb

    found = 0.0
    for hits in range(101):
        low, high = rate(hits, 100).interval
        chance = comb(100, hits) * share**hits * (1 - share) ** (100 - hits)
        found += chance * (low <= share <= high)
    assert 0.92 < found < 0.99


def test_wilson_s_interval_is_where_the_score_test_ends():
    for hits, count in ((3, 40), (20, 25), (0, 9), (9, 9)):
        for end in rate(hits, count).interval:
            if 0 < end < 1:
                z = abs(hits / count - end) / np.sqrt(end * (1 - end) / count)
                assert z == pytest.approx(1.959964, abs=1e-5)
    assert rate(0, 100).interval == pytest.approx((0, 0.0370), abs=1e-4)
    assert rate(100, 100).interval[1] == 1


def test_accuracies_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 200)
    guess = np.where(random.uniform(size=200) < 0.6, truth, 0)
    assert accuracy(guess, truth).value == (guess == truth).mean()
    found = balanced_accuracy(guess, truth)
    assert found.value == pytest.approx(balanced_accuracy_score(truth, guess))
    assert balanced_accuracy(np.zeros(200), truth).value == pytest.approx(1 / 3)


def test_the_interval_of_classes_that_are_guessed_alike_is_wilson_s_over_their_root():
    truth, hit = np.repeat([0, 1, 2], 20), np.tile(np.arange(20) < 14, 3)
    found, one = balanced_accuracy(np.where(hit, truth, 9), truth), rate(14, 20)
    for end, of_one in zip(found.interval, one.interval, strict=True):
        assert end - 0.7 == pytest.approx((of_one - 0.7) / np.sqrt(3))


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.6, 0.3), (1.0, 0.97)])
def test_the_interval_of_balanced_accuracy_holds_95_of_100(rates):
    random, held, draws = np.random.default_rng(0), 0, 400
    truth = np.repeat(np.arange(len(rates)), 40)
    for _ in range(draws):
        right = random.uniform(size=len(truth)) < np.array(rates)[truth]
        low, high = balanced_accuracy(np.where(right, truth, -1), truth).interval
        held += low <= np.mean(rates) <= high
    assert 0.95 - 0.033 < held / draws <= 0.995


def test_wrong_rates_are_refused():
    with pytest.raises(ValueError, match="`hits` must be an integer from 0 to 5"):
        rate(6, 5)
    with pytest.raises(ValueError, match="`hits` must be an integer"):
        rate(2.5, 5)
    with pytest.raises(ValueError, match="`count` must be a positive integer"):
        rate(0, 0)
    with pytest.raises(ValueError, match="two classes at least"):
        balanced_accuracy(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="same records, got 3 and 2"):
        accuracy(np.ones(3), np.ones(2))
