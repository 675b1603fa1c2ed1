"""Probes read what is there and nothing of shuffled targets; bounds lie below what is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from sklearn.feature_selection import mutual_info_regression

from jsplit.privacy import information_bound, mutual_information, probe
from jsplit.privacy.measures.bound import _fitted

KEY = jax.random.key(0)
kinds = pytest.mark.parametrize("kind", ["linear", "neighbours"])


def activation(seed: int = 0, records: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(records, 3))


@kinds
def test_a_target_that_is_there_is_read_and_a_shuffled_one_is_not(kind):
    h = activation()
    three = np.digitize(h[:, 0], [-0.5, 0.5])
    rows = [
        ("AUC", h[:, 1] > 0, 0.9, 0.5),
        ("balanced accuracy", three, 0.7, 1 / 3),
        ("R2", h[:, :2] @ np.array([[1.0, 2.0], [0.5, -1.0]]), 0.8, 0.0),
    ]
    for measure, target, least, chance in rows:
        found = probe(h, target, KEY, kind)
        assert (found.measure, found.chance) == (measure, chance)
        assert found.value.interval[0] > least
        assert found.control.interval[0] < chance + 0.02
        assert found.control.value < chance + 0.12
        assert (found.value.records, found.fitted) == (120, 280)


@kinds
def test_of_noise_nothing_is_read(kind):
    h, other = activation(), activation(1)
    for target in (other[:, 0] > 0, other):
        found = probe(h, target, KEY, kind)
        assert found.value.interval[0] < found.chance + 0.02
        assert found.value.value < found.chance + 0.12


def test_neighbours_see_what_is_not_linear():
    h = activation()[:, :2]
    ring = (h**2).sum(1) > 1.4
    assert probe(h, ring, KEY).value.value < 0.65
    assert probe(h, ring, KEY, "neighbours").value.value > 0.9


def test_the_interval_of_r2_holds_the_closed_form_95_times_of_100():
    """Of a line with noise as large as itself: 1 / (1 + 1), less what fitting costs."""
    held, draws = 0, 60
    for seed in range(draws):
        h, noise = activation(seed, 600), activation(seed + 1000, 600)
        low, high = probe(h, h[:, 0] + noise[:, 0], jax.random.key(seed)).value.interval
        held += low <= 0.5 - 0.5 * 3 / 420 <= high
    assert held / draws > 0.95 - 0.085


def test_the_unit_of_an_activation_is_no_matter():
    h = activation()
    for kind in ("linear", "neighbours"):
        found = probe(h, h[:, 0] > 0, KEY, kind).value
        scaled = probe({"a": 1e4 * h[:, :1] + 5, "b": h[:, 1:]}, h[:, 0] > 0, KEY, kind)
        assert scaled.value.value == pytest.approx(found.value, abs=1e-3)


def test_a_rare_class_is_split_and_guessed_too():
    h = activation(0, 300)
    rare = (h[:, 1] > 0) * 1
    rare[np.argsort(h[:, 0])[-10:]] = 2  # of 300 records
    found = probe(h, rare, KEY)
    assert found.measure == "balanced accuracy" and found.value.value > 0.7


def test_a_key_decides_the_split():
    h = activation()
    target = h[:, 0] + activation(1)[:, 0] > 0
    assert probe(h, target, KEY) == probe(h, target, KEY)
    assert probe(h, target, KEY) != probe(h, target, jax.random.key(1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda h: probe(h, h[:9], KEY), "same records, got 20 and 9"),
        (lambda h: probe(h, np.ones(20, int), KEY), "two classes at least"),
        (lambda h: probe(h, np.arange(20), KEY), "a class has 1"),
        (lambda h: probe(h * np.nan, h, KEY), "`activation` holds NaN"),
        (lambda h: probe(h, h, KEY, "deep"), "`kind` must be one of"),
        (lambda h: probe(h, h, KEY, test=1.0), "`test` must be between 0 and 1"),
        (lambda h: probe(h, h[:, 0] > 0, KEY, "neighbours", neighbours=15), "at most"),
        (lambda h: probe(h, np.ones(20), KEY), "the same in all records"),
        (lambda h: mutual_information(h[:, 0], h[:, 1], KEY), "at least 400 records"),
        (lambda h: mutual_information(h, h, KEY), "`x` must have one number"),
        (lambda h: information_bound(h, h, KEY), "at least 512 records, got 20"),
        (lambda h: information_bound(h, np.ones(20, int), KEY), "two classes"),
        (lambda h: information_bound(h, h, KEY, batch=1), "`batch` must be at least 2"),
    ],
)
def test_what_cannot_be_probed_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(activation(0, 20))


def test_classes_have_no_neighbours_to_estimate_information_from():
    x = activation(0, 500)[:, 0]
    with pytest.raises(ValueError, match="neighbours at a distance of 0"):
        mutual_information((x > 0) * 1, (x > 1) * 1, KEY)
    # A rectified number is 0 again and again, and the other one still tells.
    found = mutual_information(np.maximum(x, 0), x, KEY)
    assert found.value > 1


def pair(seed: int, records: int, rho: float, numbers: int = 1):
    x, noise = np.random.default_rng(seed).normal(size=(2, records, numbers))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_information_of_two_normal_numbers_is_the_closed_form(rho):
    x, y = pair(0, 1500, rho)
    found = mutual_information(x, y, KEY)
    exact = -0.5 * np.log(1 - rho**2)
    assert found.value == pytest.approx(exact, abs=0.06)
    assert found.interval[0] < exact < found.interval[1]
    # Of an estimator with other neighbours and no ranks, cut off at 0.
    other = mutual_info_regression(x, y[:, 0], random_state=0)[0]
    assert max(found.value, 0) == pytest.approx(other, abs=0.05)


def test_information_is_the_published_sum_over_neighbours():
    """Record by record, as equation 8 of Kraskov et al. 2004 has it, of normal scores."""
    x, y = (z[:, 0] for z in pair(3, 400, 0.7))
    a, b = (stats.norm.ppf((stats.rankdata(z) - 0.5) / 400) for z in (x, y))
    total = 0.0
    for i in range(400):
        by_x, by_y = (np.delete(np.abs(z - z[i]), i) for z in (a, b))
        radius = np.sort(np.maximum(by_x, by_y))[2]
        # The neighbour itself lies at the radius: counted by none of the two.
        inside = [(d < radius - 1e-12).sum() for d in (by_x, by_y)]
        total += sum(special.digamma(n + 1) for n in inside)
    want = special.digamma(3) + special.digamma(400) - total / 400
    assert mutual_information(x, y, KEY).value == pytest.approx(want, abs=1e-9)


def test_information_does_not_depend_on_the_scale_of_either():
    x, y = pair(0, 500, 0.7)
    found = mutual_information(x, y, KEY)
    assert mutual_information(np.exp(x), -(y**3), KEY).value == pytest.approx(
        found.value, abs=1e-5
    )
    assert mutual_information(y, x, KEY).value == pytest.approx(found.value, abs=1e-5)


def test_the_interval_of_information_holds_the_closed_form_95_times_of_100():
    exact, draws = -0.5 * np.log(1 - 0.36), 100
    held = 0
    for seed in range(draws):
        low, high = mutual_information(*pair(seed, 400, 0.6), KEY).interval
        held += low <= exact <= high
    assert held / draws > 0.95 - 0.066


@pytest.mark.parametrize(("numbers", "rho"), [(1, 0.6), (3, 0.6), (3, 0.0), (1, 0.9)])
def test_a_bound_of_normal_vectors_is_near_and_below_the_closed_form(numbers, rho):
    exact, draws = -0.5 * numbers * np.log(1 - rho**2), 60
    each = [
        information_bound(*pair(s, 1024, rho, numbers), jax.random.key(s))
        for s in range(draws)
    ]
    assert exact - 0.1 < np.mean([e.value for e in each]) < exact + 0.01
    # It is a bound with 97.5 % confidence: three deviations of 60 draws.
    above = np.mean([e.interval[0] > exact for e in each])
    assert above <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / draws)


def test_no_bound_is_above_the_logarithm_of_the_batch():
    x = activation(0, 2000)
    for batch in (16, 128):
        found = information_bound(x, x, KEY, batch=batch)
        assert 0.8 * np.log(batch) < found.value <= np.log(batch)


def test_a_bound_does_not_depend_on_order_of_numbers_unit_or_origin():
    x, y = pair(0, 600, 0.7, 2)
    found = information_bound(x, y, KEY).value
    moved = information_bound(3 * x[:, ::-1] + 100, -0.1 * y - 50, KEY).value
    assert moved == pytest.approx(found, abs=1e-6)


def test_correlations_of_a_bound_are_of_records_that_chose_no_direction():
    """Of independent values the best of 32 directions is at 0.6 where it was chosen."""
    random = np.random.default_rng(0)
    critic = _fitted(random.normal(size=(640, 60)), random.normal(size=(640, 60)), 32)
    assert len(critic.correlations) == 32 and critic.correlations.max() < 0.3


def test_many_numbers_of_few_records_are_no_information():
    """As many directions as records: fitted on these all correlations are 1."""
    random = np.random.default_rng(0)
    found = information_bound(
        random.normal(size=(512, 300)), random.normal(size=(512, 300)), KEY
    )
    assert -0.5 < found.value < 0.05 and found.interval[0] < 0
    # What is there in one of very many numbers, and varies most, is found all the same.
    x = random.normal(size=(512, 300))
    x[:, 7] *= 30
    found = information_bound(x, x[:, 7] + 15 * random.normal(size=512), KEY)
    assert 0.4 < found.value < 0.5 * np.log(5) + 0.2


def test_a_bound_of_classes_is_the_entropy_where_they_can_be_read():
    h = activation(0, 2000)
    label = (h[:, 0] > 0) * 1
    clear = information_bound(10 * np.sign(h), label, KEY)
    assert clear.value == pytest.approx(np.log(2), abs=0.02)
    assert clear.value <= np.log(2)
    assert information_bound(activation(1, 2000), label, KEY).value < 0.01
    # A channel that turns every tenth label round, in closed form.
    flips = np.random.default_rng(2).uniform(size=2000) < 0.1
    noisy = information_bound(np.where(flips, 1 - label, label)[:, None], label, KEY)
    exact = np.log(2) + 0.1 * np.log(0.1) + 0.9 * np.log(0.9)
    assert noisy.interval[0] < exact < noisy.interval[1]
    assert noisy.value == pytest.approx(exact, abs=0.06)


def test_an_activation_that_never_changes_tells_nothing():
    h = activation(0, 600)
    assert information_bound(jnp.ones((600, 4)), h, KEY).value == 0
