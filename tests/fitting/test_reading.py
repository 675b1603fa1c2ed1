"""What each step reads, how much it counts, and what tells one training's data from another's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.fitting import pieces, tally
from jsplit.fitting.arrays import as_batches, seed_of
from jsplit.fitting.asked import Asked
from jsplit.fitting.class_weights import record_weights
from jsplit.fitting.client_rounds import validation_round
from jsplit.fitting.history import Running
from jsplit.fitting.pieces import digest, digest_of_all
from jsplit.fitting.plan import config_of, measuring, told_apart
from jsplit.fitting.records import Piece
from tests.fitting.common import BATCH, RECORDS, algorithm, some, topology, trainer

COUNTS = np.arange(1.0, RECORDS + 1, dtype=np.float32)
ENTRIES = COUNTS[:, None] + np.arange(3, dtype=np.float32) / 4


def source_of(trains, data=None, **change):
    """What an epoch reads, of an argument that is not the usual one."""
    usual = {"batch": BATCH, "key": 0, "population": None, "shuffle": True}
    usual |= {"last": "keep", "weight": None, "class_weight": None, "label": "label"}
    return Asked(**(usual | change)).source(trains, data or some())


def read_in(source, epoch=0) -> list[Any]:
    return [read() for read in source.pieces(epoch)]


def rows_of(piece, data):
    """Which records a step reads."""
    return [int(np.flatnonzero((data["x"] == x).all(1))[0]) for x in piece.batch["x"]]


@pytest.mark.parametrize("weight", [None, COUNTS, ENTRIES])
def test_what_fills_up_a_batch_is_again_of_it_and_counts_for_nothing(weight):
    data = some()
    full, _, last = read_in(source_of(trainer(), data, last="pad", weight=weight), 2)
    given = np.ones(RECORDS, np.float32) if weight is None else weight
    # A full one has weights too, or it would be another program.
    np.testing.assert_array_equal(full.weight, given[rows_of(full, data)])
    rows = rows_of(last, data)
    assert rows == [*rows[:2], *rows[:2]] and last.weight.shape[0] == BATCH
    np.testing.assert_array_equal(last.weight[:2], given[rows[:2]])
    assert not last.weight[2:].any()


@pytest.mark.parametrize("own", [COUNTS, ENTRIES])
def test_a_weight_of_a_class_is_a_factor_of_those_of_its_records(own):
    data = some()
    source = source_of(trainer(), data, weight=own, class_weight={0: 0.5, 1: 3.0})
    for piece in read_in(source):
        rows = rows_of(piece, data)
        factor = np.where(data["label"][rows] == 1, 3.0, 0.5)
        np.testing.assert_array_equal(piece.weight.T, own[rows].T * factor)


def test_balanced_weights_are_those_of_scikit_learn():
    found = record_weights("balanced", {"label": np.array([1, 0, 0, 0])}, "label")
    np.testing.assert_allclose(found, [2, 2 / 3, 2 / 3, 2 / 3])


def test_one_batch_of_all_records_is_not_left_out():
    assert len(read_in(source_of(trainer(), batch=RECORDS, last="drop"))) == 1


def test_a_step_reads_as_many_records_as_a_schedule_takes_it_to():
    found = read_in(source_of(trainer(), some(records=65), batch=None))
    assert len(found) == jsplit.fitting.steps_per_epoch(65) == 3


@pytest.mark.parametrize("key", [-1, np.int64(3), jax.random.key(3)])
def test_any_integer_and_any_key_is_one(key):
    [*reads] = as_batches(some(), None, BATCH, "keep", seed_of(key)).pieces(0)
    assert len(reads) == 3


def test_devices_that_do_not_divide_the_last_batch_are_named_before_the_first():
    config = config_of(trainer())._replace(mesh={"server": SimpleNamespace(size=2)})
    spread = trainer()._replace(config=config)
    assert source_of(spread).settings["records"] == RECORDS
    with pytest.raises(ValueError, match="batch of 3 examples.*the mesh of `server`"):
        source_of(spread, some(records=7))


PEOPLE = jsplit.population.iid(RECORDS, 2, seed=3)


def test_how_much_a_record_counts_it_counts_in_rounds():
    [piece] = read_in(source_of(algorithm(), population=PEOPLE, weight=COUNTS), 1)
    drawn = PEOPLE.round(some(), 1, batch=BATCH).counting(COUNTS)
    np.testing.assert_array_equal(piece.batch.weight, drawn.weight)
    np.testing.assert_array_equal(piece.batch.reads, drawn.reads)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"population": PEOPLE._replace(seed=4)}, "population"),
        ({"population": PEOPLE._replace(names=("a", "b"))}, "population"),
        ({"population": PEOPLE._replace(records=PEOPLE.records[::-1])}, "population"),
        ({"data": some(2)}, "data"),
        ({"weight": COUNTS}, "weight"),
        ({"batch": 5}, "batch"),
    ],
)
def test_rounds_of_others_or_of_other_records_are_told_apart(change, name):
    def settings(data=None, **change):
        return source_of(algorithm(), data, **change).settings

    known = settings(population=PEOPLE)
    found = settings(**({"population": PEOPLE} | change))
    assert known.keys() == found.keys() and found[name] != known[name]
    # Another order is another first step.
    assert {n for n in known if known[n] != found[n]} <= {name, "data"}


def test_other_weights_are_told_apart_by_any_of_them():
    other = np.append(COUNTS[:-1], 2.0).astype(np.float32)
    one, two = (source_of(trainer(), weight=w).settings for w in (COUNTS, other))
    assert {n for n in one if one[n] != two[n]} == {"weight"}


def test_two_steps_that_read_something_else_have_two_digests():
    """Of weights alone, of dtypes, shapes and names where all bytes are equal."""
    x = np.zeros((2, 3), np.float32)
    drawn = PEOPLE.round(some(), 0, batch=2)
    other = drawn.reads.copy()
    other[-1, -1] = other[-1, -1, ::-1]
    found = [
        Piece({"x": x}),
        Piece({"y": x}),
        Piece({"x": x.T}),
        Piece({"x": x.astype(np.int32)}),
        Piece({"x": x}, np.ones(2)),
        Piece({"x": x}, np.zeros(2)),
        Piece(drawn),
        Piece(drawn._replace(reads=other)),
        Piece(drawn._replace(weight=2 * drawn.weight)),
        Piece(drawn._replace(client=drawn.client[::-1])),
        Piece(drawn._replace(steps=drawn.steps - 1)),
    ]
    assert len({digest(x) for x in found}) == len(found)


def test_of_a_large_data_set_the_first_step_is_looked_at_alone(monkeypatch):
    first = Piece({n: x[:BATCH] for n, x in some().items()})
    assert digest_of_all(some(), first) == digest(Piece(some()))
    monkeypatch.setattr(pieces, "_WHOLE", 1)
    assert digest_of_all(some(), first) == digest(first)


def test_validation_of_any_kind_is_told_apart():
    rounds = [
        jsplit.population.everyone(8, 2).round(some(n), 0, batch=4) for n in (0, 1)
    ]
    found = [None, [some()], some(), some(1), *rounds]
    assert len({told_apart(x, BATCH) for x in found}) == len(found)


def test_validation_of_rounds_is_one_round_that_every_client_measures_if_it_must():
    two = measuring(
        algorithm(), lambda epoch: [PEOPLE.round(some(), 0, batch=4)] * 2, 4
    )
    assert two is not None
    with pytest.raises(ValueError, match="one round, got 2 in epoch 5"):
        two(None, 5)

    def measured_by(**own):
        """How many clients measure, where each has something of its own."""
        state = SimpleNamespace(
            clients=SimpleNamespace(names=("a", "b"), own={("client", n) for n in own}),
            parties={"client": SimpleNamespace(**own)},
        )
        return len(validation_round(state, some(), BATCH).client)

    zeros = {"h": np.zeros(2)}
    assert measured_by(params=zeros) == measured_by(state=zeros) == 2
    assert measured_by(optimizer=zeros) == measured_by(state={}) == 1


def test_a_validation_in_pairs_is_measured_with_their_weights():
    alone: Any = SimpleNamespace(evaluate=lambda state, given: [*given])
    weight = np.ones(RECORDS)
    found: list[Any] = []
    for given in ([(some(), weight)], [some()]):
        measure: Any = measuring(alone, given, 4)
        found += measure(None, 0)
    assert found[0][1] is weight and found[1].keys() == some().keys()


def losses(value):
    return jsplit.Info(jnp.float32(value), {"loss": jnp.float32(value)})


def test_a_batch_in_which_nothing_counts_leaves_the_mean_as_it_is():
    found = tally.Tally(topology(), Running())
    found.add(losses(np.nan), 0.0)
    assert np.isnan(found.row()["loss"])
    found.add(losses(0.5), 2.0)
    assert found.row() == {"loss": 0.5}


def test_of_a_round_steps_that_are_left_out_are_no_round_that_is():
    found = tally.Tally(topology(), Running())
    flags = SimpleNamespace(flags={"h": np.array([True, False])})
    told = SimpleNamespace(**losses(0.5)._asdict() | {"each": {}, "finite": flags})
    found.add(told, 3.0)
    assert found.row() == {"loss": 0.5}


def test_records_of_steps_that_are_not_taken_do_not_count():
    drawn = PEOPLE.round(some(), 0, batch=2)
    steps = np.array([1, 2], np.int32)
    full = drawn._replace(weight=np.ones_like(drawn.weight), steps=steps)
    assert tally.count_of(Piece(full)) == 6


@pytest.mark.parametrize(
    ("losses", "columns"),
    [
        ({"loss": 1.0}, {"loss"}),
        ({"loss": 0.5}, {"loss", "loss_alone"}),
        ({"bce": 1.0}, {"loss", "bce"}),
        ({"loss": 1.0, "watched": 0.0}, {"loss", "watched"}),
        ({"loss": 1.0, "bce": 1.0}, {"loss", "loss_alone", "bce"}),
    ],
)
def test_a_loss_is_not_in_the_column_of_the_objective_unless_it_is_that(
    losses, columns
):
    of = SimpleNamespace(
        losses=[SimpleNamespace(name=n, weight=w) for n, w in losses.items()]
    )
    told = jsplit.Info(jnp.float32(3), dict.fromkeys(losses, jnp.float32(1)))
    found = tally.columns_of(of, told)
    assert {*found} == {*columns} == tally.possible_columns(of) and found["loss"] == 3


def test_rates_that_differ_have_a_column_by_party_and_those_of_clients_none():
    rated = optax.inject_hyperparams(optax.sgd)
    parties = {
        name: SimpleNamespace(optimizer=rated(learning_rate=rate).init(jnp.zeros(2)))
        for name, rate in {"client": 0.5, "server": 0.25}.items()
    }
    found = tally.hyperparams_of(SimpleNamespace(parties=parties), {}, 0)
    assert found == {"learning_rate.client": 0.5, "learning_rate.server": 0.25}
    given = {"momentum": lambda epoch: [0.5, 0.75], "decay": lambda epoch: [0.5, 0.5]}
    assert tally.hyperparams_of(jsplit.TrainState({}), given, 0) == {"decay": 0.5}
