"""Populations: every record belongs to one client, and what is read in which step is a
function of the seed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsplit import population

LABELS = np.random.default_rng(0).integers(0, 5, 400)
MAKE = {
    "iid": lambda seed: population.iid(400, 7, seed),
    "dirichlet": lambda seed: population.dirichlet(LABELS, 7, 0.3, seed),
    "quantity": lambda seed: population.quantity(400, 7, 0.5, seed),
    "grouped": lambda seed: population.grouped(LABELS, seed),
}


def test_every_record_belongs_to_exactly_one_client():
    for name, make in MAKE.items():
        found = make(1)
        assert sorted(np.concatenate(found.records)) == [*range(400)], name
        assert min(found.sizes) >= 1 and len(found.names) == len(found.records)


def test_the_seed_decides_and_nothing_else():
    for name, make in MAKE.items():
        one, two, other = make(1), make(1), make(2)
        assert all(
            (a == b).all() for a, b in zip(one.records, two.records, strict=True)
        )
        if name != "grouped":
            assert any(
                len(a) != len(b) or (a != b).any()
                for a, b in zip(one.records, other.records, strict=True)
            )
        draws = [
            p.round({"x": LABELS}, 5, batch=8, clients=3, dropout=0.2)
            for p in (one, two, other)
        ]
        assert all(
            np.array_equal(a, b)
            for a, b in zip(draws[0][1:], draws[1][1:], strict=True)
        )
        assert not np.array_equal(draws[0].reads, draws[2].reads)
        assert not np.array_equal(
            draws[0].reads, one.round({"x": LABELS}, 6, batch=8, clients=3).reads
        )


def test_iid_sizes_are_equal_and_quantity_skew_is_not():
    assert set(MAKE["iid"](0).sizes) == {57, 58}
    sizes = [
        np.std(population.quantity(4000, 20, alpha).sizes)
        for alpha in (0.3, 3.0, 300.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_small_alpha_gives_clients_few_classes_and_a_large_one_the_classes_of_all():
    labels = np.random.default_rng(0).integers(0, 10, 20000)

    def spread(alpha):
        shares = [
            np.bincount(labels[r], minlength=10) / len(r)
            for r in population.dirichlet(labels, 10, alpha).records
        ]
        return np.mean([np.abs(s - 0.1).sum() for s in shares])

    assert spread(0.1) > 1.0 > 0.2 > spread(1000.0)


def test_dirichlet_proportions_have_the_mean_and_variance_of_the_distribution():
    """Of one class: the mean share is 1 / K, its variance (1 / K) (1 - 1 / K) / (alpha K + 1)."""
    labels, clients, alpha = np.zeros(2000, int), 5, 2.0
    shares = (
        np.array(
            [
                population.dirichlet(labels, clients, alpha, s, least=1).sizes
                for s in range(400)
            ]
        )
        / 2000
    )
    np.testing.assert_allclose(shares.mean(0), 1 / clients, atol=0.03)
    expected = (1 / clients) * (1 - 1 / clients) / (alpha * clients + 1)
    np.testing.assert_allclose(shares.var(0).mean(), expected, rtol=0.15)


def test_natural_groups_keep_their_names():
    found = population.grouped(np.array(["b", "a", "b", "c"]))
    assert found.names == ("a", "b", "c") and [r.tolist() for r in found.records] == [
        [1],
        [0, 2],
        [3],
    ]


def test_everyone_has_every_record_and_pooled_each_counts_once():
    people = population.everyone(10, 3)
    drawn = people.round({"x": LABELS}, 0, batch=4)
    assert people.sizes == (10, 10, 10) and drawn.clients == 3
    for reads, weight in zip(drawn.reads, drawn.weight, strict=True):
        assert sorted(reads[weight > 0]) == [*range(10)]
    assert sorted(people.pooled().records[0]) == [*range(10)]


def test_a_population_is_printed_in_a_line():
    assert (
        repr(population.iid(400, 7))
        == "Population(7 clients with 57 to 58 records each, seed=0)"
    )
    assert (
        repr(population.iid(400, 7).pooled())
        == "Population(1 client with 400 records, seed=0)"
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_an_epoch_reads_each_record_once_and_fills_up_with_the_client_s_own(
    sizes, batch, epochs, number
):
    ends = np.cumsum(sizes)
    people = population.Population(
        tuple(np.arange(e - n, e) for e, n in zip(ends, sizes, strict=True)),
        tuple(map(str, sizes)),
    )
    drawn = people.round({"x": np.zeros(ends[-1])}, number, batch=batch, epochs=epochs)
    for k, (mine, n) in enumerate(zip(people.records, sizes, strict=True)):
        assert drawn.steps[k] == epochs * -(-n // batch)
        reads, weight = (
            drawn.reads[k, : drawn.steps[k]],
            drawn.weight[k, : drawn.steps[k]],
        )
        assert sorted(reads[weight > 0]) == sorted([*mine] * epochs)
        assert (
            set(reads.reshape(-1)) <= set(mine)
            and not drawn.weight[k, drawn.steps[k] :].any()
        )
        per_epoch = weight.reshape(epochs, -1).sum(1)
        assert (per_epoch == n).all()
    assert drawn.share.tolist() == list(sizes)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_global_batches_read_each_record_once_at_its_owner(sizes, batch, number):
    ends = np.cumsum(sizes)
    people = population.Population(
        tuple(np.arange(e - n, e) for e, n in zip(ends, sizes, strict=True)),
        tuple(map(str, sizes)),
    )
    drawn = people.global_batches({"x": np.zeros(ends[-1])}, number, batch=batch)
    assert sorted(drawn.reads[drawn.weight > 0]) == [*range(ends[-1])]
    assert (drawn.weight.sum((0, 2))[:-1] == batch).all()
    for k, mine in enumerate(people.records):
        assert set(drawn.reads[k].reshape(-1)) <= set(mine)


def test_a_given_number_of_steps_takes_full_batches_pass_after_pass():
    people = population.Population((np.arange(5), np.arange(5, 40)), ("few", "many"))
    drawn = people.round({"x": np.zeros(40)}, 0, batch=4, steps=6)
    assert drawn.steps.tolist() == [6, 6] and (drawn.weight == 1).all()
    assert [sorted(drawn.reads[0].reshape(-1)[i : i + 5]) for i in range(0, 20, 5)] == [
        [0, 1, 2, 3, 4]
    ] * 4


def test_those_who_take_part_are_drawn_evenly_and_rounds_keep_their_shape():
    people = population.iid(400, 10)
    drawn = [people.round({"x": LABELS}, i, batch=8, clients=3) for i in range(600)]
    counts = np.bincount(np.concatenate([d.client for d in drawn]), minlength=10)
    assert all(len({*d.client.tolist()}) == 3 for d in drawn) and {
        d.reads.shape for d in drawn
    } == {(3, 5, 8)}
    assert np.abs(counts - 180).max() < 5 * np.sqrt(
        600 * 0.3 * 0.7
    )  # five standard deviations
    order = people.round({"x": LABELS}, 0, shuffled=True).client
    assert sorted(order) == [*range(10)] and order.tolist() != [*range(10)]


def test_failures_come_with_their_probability_and_evenly_over_the_steps():
    people = population.iid(4000, 100)
    drawn = [
        people.round({"x": np.zeros(4000)}, i, batch=10, dropout=0.25)
        for i in range(40)
    ]
    steps = np.concatenate([d.steps for d in drawn])
    assert abs((steps < 4).mean() - 0.25) < 0.04
    assert np.abs(np.bincount(steps[steps < 4], minlength=4) / 250 - 1).max() < 0.35
    gone = people.round(
        {"x": np.zeros(4000)}, 0, batch=10, dropout=0.25, unfinished="discard"
    )
    assert (
        set(gone.steps) == {0, 4}
        and (gone.share > 0).tolist() == (gone.steps > 0).tolist()
    )


def test_what_does_not_fit_is_refused():
    for records in (LABELS, 0.5, None, True):
        with pytest.raises(
            ValueError,
            match="`records` must be a positive integer, got "
            + ("an array of shape" * (records is LABELS)),
        ):
            population.iid(records, 10)
    x, people = {"x": LABELS}, population.iid(400, 4)
    cases = [
        (lambda: population.iid(3, 4), "`clients` is 4, but there are only 3 records"),
        (lambda: population.iid(3, 0), "`clients` must be a positive integer, got 0"),
        (lambda: population.dirichlet(LABELS, 4, 0), "`alpha` must be positive"),
        (
            lambda: population.dirichlet(LABELS[:, None], 4, 1.0),
            "`labels` must be a vector",
        ),
        (
            lambda: population.dirichlet(LABELS[:8], 8, 0.01),
            "`least` is 1: in 1000 draws",
        ),
        (lambda: population.grouped(np.zeros((3, 2))), "`groups` must be a vector"),
        (
            lambda: people.round({"x": LABELS[:50]}, 0),
            "`fields` has 50 records, but the population has one of index 399",
        ),
        (lambda: people.round(x, 0, batch=0), "`batch` must be a positive integer"),
        (lambda: people.round(x, 0, epochs=1.5), "`epochs` must be a positive integer"),
        (lambda: people.round(x, 0, steps=0), "`steps` must be a positive integer"),
        (
            lambda: people.round(x, 0, clients=5),
            "`clients` is 5, but there are only 4 clients",
        ),
        (lambda: people.round(x, 0, dropout=1.0), r"`dropout` must lie in \[0, 1\)"),
        (
            lambda: people.round(x, 0, unfinished="drop"),
            '`unfinished` must be "keep" or "discard"',
        ),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()


def test_what_a_client_reads_in_steps_that_it_does_not_take_is_its_own():
    """A batch in which nothing counts may still be read, where examples mix."""
    people = population.Population((np.arange(3), np.arange(3, 20)), ("a", "b"), 0)
    fields = {"x": np.zeros(20)}
    for drawn in (
        people.round(fields, 0, batch=4),
        people.global_batches(fields, 0, batch=6),
    ):
        for k, c in enumerate(drawn.client):
            assert {*drawn.reads[k].ravel()} <= {*people.records[c]}
    reads, weight = (x[1] for x in people.global_batches(fields, 0, batch=6)[1:3])
    assert len({*reads[weight == 0]}) > 1  # not one record again and again
