"""Poisson batches: independent coins, the same everywhere, and never cut off."""

from __future__ import annotations

import numpy as np
import pytest

import jsplit
from jsplit import population

FIELDS = {"x": np.arange(600)}


def test_each_record_is_in_each_batch_by_a_coin_of_its_own():
    """Means and covariances of who is in which of 2,000 batches, within five deviations."""
    steps, rate, n = 2000, 0.1, 50
    drawn = population.poisson(n, rate, seed=3).round(
        {"x": np.arange(n)}, 0, steps=steps
    )
    there = np.zeros((steps, n))
    for s in range(steps):
        mine = drawn.reads[0, s][drawn.weight[0, s] == 1]
        assert len({*mine}) == len(mine)
        there[s, mine] = 1
    variance = rate * (1 - rate)
    assert np.abs(there.mean(0) - rate).max() < 5 * np.sqrt(variance / steps)
    covariance = np.cov(there.T)
    between = np.abs(covariance - np.diag(np.diag(covariance))).max()
    assert between < 5 * variance / np.sqrt(steps)
    # Sizes differ, as those of shuffled batches do not.
    sizes = there.sum(1)
    assert sizes.var() == pytest.approx(n * variance, rel=0.2)


def test_a_batch_follows_from_the_seed_and_its_number_alone():
    coins = population.poisson(600, 0.05, seed=1)
    a, b = coins.step(FIELDS, 7), population.poisson(600, 0.05, seed=1).step(FIELDS, 7)
    assert (a[0]["x"] == b[0]["x"]).all() and (a[1] == b[1]).all()
    other = population.poisson(600, 0.05, seed=2).step(FIELDS, 7)
    assert not np.array_equal(a[0]["x"], other[0]["x"])
    assert not np.array_equal(a[0]["x"], coins.step(FIELDS, 8)[0]["x"])


def test_every_client_flips_over_its_own_records_and_shapes_are_fixed():
    people = population.dirichlet(np.arange(600) % 3, 4, 1.0)
    coins = population.poisson(people, 0.1)
    shapes = set()
    for number in range(5):
        drawn = coins.round(FIELDS, number, steps=3)
        shapes.add(drawn.reads.shape)
        for k, c in enumerate(drawn.client):
            assert {*drawn.reads[k].ravel()} <= {*people.records[c]}
        assert (drawn.steps == 3).all()
    assert shapes == {(4, 3, coins.capacity)}


def test_the_capacity_is_the_smallest_whose_tail_is_small_enough():
    stats = pytest.importorskip("scipy.stats")
    for n, rate, overflow in ((1000, 0.05, 1e-12), (60, 0.5, 1e-3), (7, 1.0, 0.1)):
        coins = population.poisson(n, rate, overflow=overflow)
        assert coins.overflow == pytest.approx(
            stats.binom.sf(coins.capacity, n, rate), rel=1e-6
        )
        assert coins.overflow <= overflow
        assert stats.binom.sf(coins.capacity - 1, n, rate) > overflow


def test_a_draw_that_finds_no_room_is_an_error_and_not_cut_off():
    coins = population.poisson(600, 0.05, capacity=20)
    with pytest.raises(
        ValueError, match="`capacity` is 20, but step 0 of round . draws"
    ):
        for number in range(9):
            coins.step(FIELDS, number)


def test_an_empty_batch_counts_nothing():
    coins = population.poisson(3, 0.01, capacity=2)
    batch, weight = coins.step({"x": np.arange(3)}, 0)
    assert batch["x"].shape == (2,) and weight.tolist() == [0, 0]


def test_what_fills_up_a_batch_is_no_part_of_a_loss_that_divides_by_a_constant():
    """Over many batches its mean is that of all records: the draw is unbiased."""
    topology = jsplit.Topology(
        [
            jsplit.Node("y", jsplit.segment(lambda x: 1.0 * x), "lab", ["x"]),
            jsplit.Loss("loss", lambda y: y, "lab", ["y"], per=0.1 * 200),
        ],
        {"lab": ["x"]},
    )
    trainer = jsplit.fused(topology, None)
    fields = {"x": np.random.default_rng(0).normal(3, 1, 200).astype("float32")}
    coins = population.poisson(200, 0.1)
    state, losses = None, []
    for number in range(400):
        batch, weight = coins.step(fields, number)
        state = trainer.init(0, batch) if state is None else state
        state, info = trainer.step(state, batch, weight=weight)
        losses.append(float(info.loss))
        counted = (batch["x"] * weight).sum() / 20
        assert info.loss == pytest.approx(counted, rel=1e-5)
    spread = np.std(losses) / np.sqrt(len(losses))
    assert abs(np.mean(losses) - fields["x"].mean()) < 5 * spread


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: population.poisson(0, 0.1), "`people` must be a positive integer"),
        (lambda: population.poisson(9, 0.0), r"`rate` must lie in \(0, 1\], got 0.0"),
        (lambda: population.poisson(9, 0.1, overflow=0.0), "`overflow` must lie in"),
        (
            lambda: population.poisson(9, 0.1, capacity=0),
            "`capacity` must be a positive",
        ),
        (
            lambda: population.poisson(population.iid(9, 3), 0.1).step(FIELDS, 0),
            "The population has 3 clients",
        ),
        (
            lambda: population.poisson(700, 0.1).step(FIELDS, 0),
            "`fields` has 600 records",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
