"""Records of several parties are aligned by their ids, which nobody tells another."""

from __future__ import annotations

import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.contract import record_order as records
from jsplit.wire.control import Status
from jsplit.wire.same_records import same_records
from tests.party import federation
from tests.party.federation import (
    IDS_KEY,
    agreed_for,
    bits,
    checked,
    own_of,
    small,
    together,
    trust_of,
)


def shuffled(problem, count=21):
    """Every party has the same records, in an order of its own."""
    rng = np.random.default_rng(0)
    fields = {f: np.concatenate([x] * 3)[:count] for f, x in problem.batch.items()}
    fields = {f: rng.permutation(x) for f, x in fields.items()}
    orders = {p: rng.permutation(count) for p in problem.topology.parties}
    ids = [f"patient {i:03}" for i in rng.permutation(count)]

    def of(p):
        held = problem.topology.holds.get(p, ())
        return {f: fields[f][orders[p]] for f in held}, [
            ids[i] for i in orders[p]
        ] if held else None

    return fields, ids, orders, of


def test_records_are_aligned_by_id_in_training_evaluation_and_prediction():
    problem = small()
    fields, ids, orders, of = shuffled(problem)
    agreed = agreed_for(problem, steps=5)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        data, own_ids = of(p)
        given = {
            "credentials": trust[p],
            "ids": own_ids,
            "ids_key": IDS_KEY,
            "remind": 60.0,
        }  # nobody waits until it asks again
        trained = party.run(
            agreed, p, problem.topology, data, optimizer=rates[p], **given
        )
        given |= {"state": trained.state, "records": 21}
        found = party.evaluate(agreed, p, problem.topology, data, **given)
        inputs = {f: x for f, x in data.items() if f != "label"}
        return (
            trained,
            found,
            party.predict(agreed, p, problem.topology, inputs, **given),
        )

    results = checked(together(agreed.parties, work))
    trainer = jsplit.messages(problem.topology, rates)
    state, order = trainer.init(3, problem.batch), np.argsort(ids)
    for step in range(5):
        rows = order[records.places_of(step, 21, 8, 3)]
        state, _ = trainer.step(state, {f: x[rows] for f, x in fields.items()})
    assert all(bits(r[0].state) == bits(state.parties[p]) for p, r in results.items())
    parts = [order[i : i + 8] for i in range(0, 21, 8)]  # the last is smaller
    losses = [
        float(trainer.evaluate(state, {f: x[rows] for f, x in fields.items()}).loss)
        for rows in parts
    ]
    assert results["server"][1].losses["loss"] == pytest.approx(
        np.average(losses, weights=list(map(len, parts))), rel=1e-6
    )
    inputs = {f: x for f, x in fields.items() if f != "label"}
    outputs = np.concatenate(
        [
            trainer.predict(state, {f: x[rows] for f, x in inputs.items()})["y"]
            for rows in parts
        ]
    )
    by_record = np.empty_like(outputs)
    by_record[order] = outputs
    assert (
        results["server"][2].outputs["y"] == by_record[orders["server"]]
    ).all()  # by its ids, though it reads no field
    assert not results["lab"][2].outputs and set(orders) == set(results)


def test_what_cannot_be_evaluated_is_refused_before_any_connection():
    problem = small("pair")
    agreed, data = agreed_for(problem), own_of(problem, "client")
    state = Local(agreed, "client", problem.topology, optax.sgd(0.1)).init(data)
    given: dict = {"credentials": trust_of(agreed.parties)["client"], "state": state}
    for work, name in ((party.evaluate, "evaluate"), (party.predict, "predict")):
        with pytest.raises(
            ValueError,
            match=f"`data` must be fields by name to {name}, not a function of the step",
        ):
            work(
                agreed,
                "client",
                problem.topology,
                lambda step: data,
                records=8,
                **given,
            )
        for wrong in (0, -5, 2.5, True):
            with pytest.raises(
                ValueError, match=f"`records` must be a positive integer, got {wrong}"
            ):
                work(agreed, "client", problem.topology, data, records=wrong, **given)
        with pytest.raises(ValueError, match="`records` is 9, `data` has 8"):
            work(agreed, "client", problem.topology, data, records=9, **given)


def test_outputs_come_in_the_order_in_which_their_party_gave_its_records():
    given = records.Records({"x": np.arange(5)}, [30, 4, 22, 1, 100])
    shared = given.take(np.arange(5))["x"]
    assert [int(x) for x in given.back({"y": shared})["y"]] == [0, 1, 2, 3, 4]


def test_records_that_differ_are_told_in_counts_and_never_by_id():
    problem = small()
    _, _, _, of = shuffled(problem)
    agreed = agreed_for(problem, steps=2)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        data, ids = of(p)
        if p == "clinic":
            assert ids is not None  # it holds a field
            data, ids = {f: x[:19] for f, x in data.items()}, ids[:19]
        return party.run(
            agreed,
            p,
            problem.topology,
            data,
            ids=ids,
            ids_key=IDS_KEY,
            optimizer=rates[p],
            credentials=trust[p],
            remind=0.5,
        )

    found = together(agreed.parties, work)
    for error in found.values():
        assert isinstance(error, party.Refused), error
        assert (
            "`clinic` 19" in str(error)
            and "`lab` 21" in str(error)
            and "at least 2 are missing" in str(error)
        )
        assert "patient" not in str(error) and "\n" not in str(error)
    with pytest.raises(
        ValueError, match="`ids` of 4 records: 2 are there more than once"
    ) as error:
        records.Records({"x": np.zeros(4)}, ["ann", "bob", "ann", "bob"])
    assert "ann" not in str(error.value)
    with pytest.raises(ValueError, match="`ids` has 3 entries for 4 records"):
        records.Records({"x": np.zeros(4)}, [1, 2, 3])


def test_the_digest_of_ids_depends_on_all_of_them_and_on_the_agreement_but_not_on_their_order():
    def digest(ids, key=b"k"):
        return records.Records({"x": np.zeros(len(ids))}, ids, key=key).digest

    assert digest(["a", "b"]) == digest(["b", "a"]) != digest(["a", "c"])
    assert (
        len(
            {
                digest(["a", "b"]),
                digest(["ab"]),
                digest(["a", "b"], b"l"),
                digest(["1"]),
                digest([1]),
            }
        )
        == 5
    )


def test_ids_from_a_table_with_missing_values_are_those_from_one_without():
    """Such a table has its integers as floats."""
    digests = {
        records.Records({"x": np.zeros(2)}, ids).digest
        for ids in ([5, 12], [5.0, 12.0], np.float64([12, 5]), np.int8([5, 12]))
    }
    assert (
        len(digests)
        == 1
        != len({*digests, records.Records({"x": np.zeros(2)}, ["5", "12"]).digest})
    )
    with pytest.raises(
        ValueError, match="`ids` of 4 records: 3 are neither strings nor integers"
    ):
        records.Records({"x": np.zeros(4)}, [5, float("nan"), 2.5, None])


def test_ids_at_one_party_and_none_at_another_are_told_so():
    said = {
        "lab": Status(1, 0, (0,), {"": (8, "ab")}),
        "clinic": Status(1, 0, (0,), {"": (8, None)}),
    }
    with pytest.raises(
        party.Refused, match="`clinic` gave them without ids, others with ids"
    ):
        same_records(said)


def test_the_order_of_a_pass_is_drawn_once_for_all_its_steps(monkeypatch):
    drawn, real = [], np.random.default_rng
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed)
    )
    for step in range(9):
        records.places_of(step, 12, 4, 123)
    assert drawn == [[123, n] for n in range(3)]


def test_every_pass_takes_every_record_once_in_another_order():
    passes = [
        np.concatenate([records.places_of(n * 3 + s, 12, 4, 0) for s in range(3)])
        for n in range(3)
    ]
    assert all(sorted(p) == list(range(12)) for p in passes)
    assert len({tuple(p) for p in passes}) == 3
    assert (records.places_of(5, 12, 4, 0) == records.places_of(5, 12, 4, 0)).all()
