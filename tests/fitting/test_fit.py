"""The loop takes the steps that a loop of one's own takes, and measures what it measures."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit.fitting import tally
from jsplit.fitting.class_weights import record_weights, together
from tests.fitting.common import (
    BATCH,
    RECORDS,
    algorithm,
    bottom,
    first_weights,
    gap,
    loss,
    params,
    same,
    some,
    topology,
    trainer,
)

PEOPLE = jsplit.population.iid(RECORDS, 2)
SGD = optax.sgd(0.1)


def order(epoch, key=0, records=RECORDS):
    return np.random.default_rng([key, epoch]).permutation(records)


def test_it_is_the_loop_that_one_would_write():
    """With the ragged last batch, the mean over all examples, and what `evaluate` says."""
    data, test = some(), some(1)
    state = trainer().init(0, data)
    losses = []
    for epoch in range(2):
        total = 0.0
        for start in range(0, RECORDS, BATCH):
            rows = order(epoch)[start : start + BATCH]
            batch = {n: x[rows] for n, x in data.items()}
            state, info = trainer().step(state, batch)
            total += float(info.loss) * len(rows)
        losses.append(total / RECORDS)
    fitted = jsplit.fit(trainer(), data, epochs=2, batch=BATCH, validation=test)
    assert same(fitted.state, state)
    assert fitted.history["loss"].tolist() == losses
    batches = [{n: x[i : i + BATCH] for n, x in test.items()} for i in (0, 4, 8)]
    info = trainer().evaluate(state, batches)
    row = fitted.history.rows[-1]
    assert row["val_loss"] == float(info.loss) and row["val_gap"] == info.metrics["gap"]
    assert fitted.history.steps == 6 and fitted.history.stopped == "epochs"


def test_a_loop_over_batches_is_one_over_arrays_that_come_as_they_lie():
    data = some()
    batches = [{n: x[i : i + BATCH] for n, x in data.items()} for i in (0, 4, 8)]
    plain = jsplit.fit(trainer(), data, epochs=2, batch=BATCH, shuffle=False)
    pairs = [(b, np.ones(len(b["x"]), "f")) for b in batches]
    for given in (batches, lambda epoch: iter(batches), pairs):
        assert same(jsplit.fit(trainer(), given, epochs=2).state, plain.state)


def test_a_last_batch_that_is_filled_up_trains_as_the_smaller_one():
    kept, padded = (
        jsplit.fit(trainer(), some(), epochs=2, batch=BATCH, last=last)
        for last in ("keep", "pad")
    )
    for a, b in zip(params(kept.state), params(padded.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kept.history["loss"], padded.history["loss"], rtol=1e-5)
    dropped = jsplit.fit(trainer(), some(), epochs=2, batch=BATCH, last="drop")
    assert (
        dropped.history.steps == 4 and kept.history.steps == padded.history.steps == 6
    )


def test_the_ragged_batch_is_traced_once_and_no_step_is_waited_for(monkeypatch):
    traced, fetched = [], []

    def seen(params, x):
        traced.append(x.shape)
        return x @ params

    client = jsplit.segment(
        seen, init=lambda key, x: jax.random.normal(key, (3, 2)), inputs=["x"]
    )
    server = jsplit.segment(lambda h: h * h, inputs=["h"])
    made = jsplit.vanilla(client, server, loss=lambda h, y: h.sum(-1) - y)
    one = jsplit.fused(made, optax.sgd(0.01), nonfinite="allow")
    jsplit.fit(one, some(), epochs=1, batch=BATCH)
    before = len(traced)
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(len(x)) or get(x))
    jsplit.fit(one, some(), epochs=3, batch=BATCH)
    # The first state is made by shapes of a full batch; no step is traced again.
    assert (2, 3) in traced[:before] and (2, 3) not in traced[before:]
    assert fetched == [3, 3, 3]
    whole = jsplit.fit(one, some(), epochs=1, batch=BATCH)
    monkeypatch.setattr(tally, "_FETCHED", 2)
    pieces = jsplit.fit(one, some(), epochs=1, batch=BATCH)
    assert fetched == [3, 3, 3, 3, 2, 1]
    assert pieces.history.rows == whole.history.rows


def test_weights_of_classes_count_as_their_records_said_again():
    """A class that counts twice is one whose records are there twice."""
    data = some()
    twice = {n: np.concatenate([x, x[data["label"] == 1]]) for n, x in data.items()}
    sgd = jsplit.fused(topology(), optax.sgd(0.1))
    weighted = jsplit.fit(
        sgd, data, epochs=3, batch=RECORDS, class_weight={0: 1.0, 1: 2.0}
    )
    doubled = jsplit.fit(sgd, twice, epochs=3, batch=len(twice["x"]))
    plain = jsplit.fit(sgd, data, epochs=3, batch=RECORDS)
    a, b, c = (f.history["loss"][-1] for f in (weighted, doubled, plain))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert abs(a - c) > 1e-3


@pytest.mark.parametrize("kind", [int, bool, "float16"])
def test_weights_of_classes_do_not_depend_on_the_dtype_of_weights(kind):
    """An integer beside 0.5 does not make 0 of it."""
    labels = some()["label"]
    by_class = record_weights({0: 0.5, 1: 2.0}, some(), "label")
    own = (labels >= 0).astype(kind)
    np.testing.assert_array_equal(together(own, by_class), np.where(labels, 2.0, 0.5))
    entries = together(np.ones((RECORDS, 2), kind), by_class)
    assert by_class is not None and entries is not None
    np.testing.assert_array_equal(entries[:, 1], by_class)


def named(loss_name, metric="gap"):
    client = jsplit.segment(bottom, init=first_weights(3, 2), inputs=["x"])
    server = jsplit.segment(
        lambda params, h: h @ params, init=first_weights(2, 2), inputs=["h"]
    )
    nodes = jsplit.vanilla(client, server, loss=loss).nodes
    kept = [node for node in nodes if not isinstance(node, jsplit.Loss)]
    more = [
        jsplit.Loss(loss_name, loss, "server", ["output", "label"]),
        jsplit.Metric(metric, gap, "server", ["output", "label"]),
    ]
    holds = topology().holds
    return jsplit.fused(jsplit.Topology(nodes=[*kept, *more], holds=holds), SGD)


@pytest.mark.parametrize(
    ("names", "column"),
    [
        (("val_loss",), "val_loss"),
        (("likelihood", "loss"), "val_loss"),
        (("skipped",), "skipped"),
        (("seconds",), "seconds"),
        (("learning_rate",), "learning_rate"),
    ],
)
def test_two_columns_of_one_name_are_refused_before_a_step(names, column):
    with pytest.raises(ValueError, match=f"two columns `{column}`"):
        jsplit.fit(named(*names), some(), epochs=1, validation=some(1))


def test_balanced_classes_count_alike_in_the_mean():
    data = some()
    state = trainer().init(0, data)
    fitted = jsplit.fit(
        trainer(), data, epochs=1, batch=RECORDS, class_weight="balanced"
    )
    by_class = [
        float(
            trainer()
            .evaluate(state, {n: x[data["label"] == c] for n, x in data.items()})
            .loss
        )
        for c in (0, 1)
    ]
    np.testing.assert_allclose(fitted.history["loss"][0], np.mean(by_class), rtol=1e-5)


@pytest.mark.parametrize("version", [1, 3])
def test_an_epoch_of_an_algorithm_is_a_round_of_its_population(version):
    data, test, people = some(), some(1), jsplit.population.iid(RECORDS, 2, seed=3)
    by_hand = algorithm(version).init(0, people.round(data, 0, batch=BATCH))
    for number in range(2):
        drawn = people.round(data, number, batch=BATCH)
        by_hand = jsplit.set_hyperparams(by_hand, {"learning_rate": 0.1 / (number + 1)})
        by_hand, info = algorithm(version).step(by_hand, drawn)
    everybody = jsplit.population.everyone(RECORDS, 2).round(test, 0, batch=BATCH)
    measured = algorithm(version).evaluate(by_hand, everybody)
    fitted = jsplit.fit(
        algorithm(version),
        data,
        population=people,
        epochs=2,
        batch=BATCH,
        validation=test,
        hyperparams={"learning_rate": lambda epoch: 0.1 / (epoch + 1)},
    )
    assert same(fitted.state, by_hand)
    row = fitted.history.rows[-1]
    assert row["loss"] == float(info.loss) and row["learning_rate"] == 0.05
    np.testing.assert_allclose(row["val_loss"], measured.loss, rtol=1e-5)
    np.testing.assert_allclose(row["val_gap"], measured.metrics["gap"], rtol=1e-5)
    drawing = lambda epoch: people.round(data, epoch, batch=BATCH)  # noqa: E731
    asked = []
    again = jsplit.fit(
        algorithm(version),
        drawing,
        epochs=2,
        validation=lambda epoch: asked.append(epoch) or everybody,
        hyperparams={"learning_rate": lambda epoch: 0.1 / (epoch + 1)},
    )
    assert same(again.state, by_hand) and asked[-2:] == [0, 1]


def test_a_step_that_is_left_out_is_not_in_the_mean():
    data = some()
    data["x"][order(0)[0]] = np.nan
    skipping = trainer(nonfinite="skip")
    fitted = jsplit.fit(skipping, data, epochs=1, batch=BATCH)
    row = fitted.history.rows[0]
    assert row["skipped"] == 1 and np.isfinite(row["loss"])


def test_a_training_that_uses_up_its_states_is_the_same_and_keeps_the_best():
    given = {"epochs": 3, "batch": BATCH, "validation": some(1)}
    asked = {"monitor": "val_gap", "mode": "max"}
    plain = jsplit.fit(trainer(), some(), **given, **asked)
    using = jsplit.fit(trainer(nonfinite="skip", donate=True), some(), **given, **asked)
    assert using.history.rows == plain.history.rows
    assert same(params(using.best), params(plain.best))


def test_a_state_that_is_the_last_and_the_best_is_not_used_up_when_it_goes_on(tmp_path):
    # The loss falls, so by its maximum the first epoch is the best.
    given = {"batch": BATCH, "monitor": "loss", "mode": "max", "folder": tmp_path}
    using = trainer(nonfinite="skip", donate=True)
    begun = jsplit.fit(using, some(), epochs=1, **given)
    first = jax.tree.map(np.asarray, params(begun.state))
    more = jsplit.fit(using, some(), epochs=2, **given)
    assert more.history.best == 0 and same(params(more.best), first)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch": 0}, "batch"),
        ({"epochs": 0}, "epochs"),
        ({"last": "fill"}, "last"),
        ({"batch": 16, "last": "drop"}, "last"),
        ({"weight": np.ones(3)}, "weight"),
        ({"weight": -np.ones(RECORDS)}, "weight"),
        ({"class_weight": {0: 1.0}}, "class_weight"),
        ({"class_weight": "even"}, "class_weight"),
        ({"class_weight": {0: 0.0, 1: 0.0}}, "class_weight"),
        ({"weight": np.zeros(RECORDS)}, "weight"),
        ({"class_weight": "balanced", "label": "diagnosis"}, "label"),
        ({"class_weight": "balanced", "label": "x"}, "class_weight"),
        ({"monitor": "gap"}, "mode"),
        ({"monitor": "val_gap", "mode": "max"}, "validation"),
        ({"monitor": "auc", "mode": "max"}, "monitor"),
        ({"mode": "best"}, "mode"),
        ({"patience": 0}, "patience"),
        ({"min_delta": -1.0}, "min_delta"),
        ({"min_delta": np.nan}, "min_delta"),
        ({"class_weight": {0: 1.0, 1: -1.0}}, "class_weight"),
        ({"min_delta": "0.1"}, "min_delta"),
        ({"key": None}, "key"),
        ({"key": 1.5, "state": "first"}, "key"),
        ({"resume": "no"}, "resume"),
        ({"hyperparams": {"learning_rate": 0.1}}, "hyperparams"),
        ({"hyperparams": [0.1]}, "hyperparams"),
        ({"callbacks": [SimpleNamespace(on_step=3)]}, "on_step"),
        ({"every": 2}, "folder"),
        ({"every": 0, "folder": "/dev/null/none"}, "every"),
        ({"population": PEOPLE}, "population"),
        ({"hyperparams": {"momentum": lambda epoch: 0.9}}, "momentum"),
        ({"state": 3}, "state"),
        ({"data": (x for x in [some()])}, "data` is an iterator"),
        ({"data": []}, "data"),
        ({"data": [3]}, "data"),
        ({"data": 3}, "data"),
        ({"data": [some()], "batch": 2}, "batch"),
        ({"data": [some()], "shuffle": False}, "shuffle"),
        ({"data": [some()], "last": "pad"}, "last"),
        ({"data": [some()], "weight": np.ones(RECORDS)}, "weight"),
        ({"data": [some()], "class_weight": "balanced"}, "class_weight"),
        ({"data": [some()], "population": PEOPLE}, "population"),
        ({"validation": [3]}, "validation"),
        ({"validation": []}, "validation"),
        ({"callbacks": [3]}, "callbacks"),
        ({"callbacks": [SimpleNamespace(on_epoch_end=print)]}, "callbacks"),
        ({"callbacks": [jsplit.fitting.Progress]}, "callbacks"),
        ({"callbacks": print}, "callbacks"),
        ({"trainer": 3}, "trainer"),
        ({"trainer": "algorithm"}, "population"),
        ({"trainer": "algorithm", "population": PEOPLE, "last": "pad"}, "last"),
        ({"trainer": "algorithm", "population": PEOPLE, "shuffle": False}, "last"),
        ({"trainer": "algorithm", "data": [some()]}, "data` must give what the step"),
        ({"data": PEOPLE.round(some(), 0, batch=4)}, "data` must give what the step"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, word):
    given = {"trainer": trainer(), "data": some(), "epochs": 1, **change}
    if given["trainer"] == "algorithm":
        given["trainer"] = algorithm()
    if given.get("state") == "first":
        given["state"] = trainer().init(0, some())
    with pytest.raises(ValueError, match=f"`?{word}"):
        jsplit.fit(given.pop("trainer"), given.pop("data"), **given)


def test_micro_batches_that_do_not_divide_the_last_batch_are_refused_before_the_first():
    halves = jsplit.fused(topology(), optax.sgd(0.1), microbatches=2)
    with pytest.raises(ValueError, match='last="pad"'):
        jsplit.fit(halves, some(records=9), epochs=1, batch=BATCH)
    assert (
        jsplit.fit(
            halves, some(records=9), epochs=1, batch=BATCH, last="pad"
        ).history.steps
        == 3
    )


def test_a_schedule_by_epoch_holds_for_its_steps():
    steps = jsplit.fitting.steps_per_epoch(RECORDS, BATCH)
    assert steps == 3 and jsplit.fitting.steps_per_epoch(RECORDS, BATCH, "drop") == 2
    by_epoch = optax.cosine_decay_schedule(1.0, decay_steps=4)
    rate = jsplit.fitting.by_epoch(by_epoch, steps)
    smooth = jsplit.fitting.by_epoch(by_epoch, steps, smooth=True)
    for step in range(12):
        assert rate(step) == by_epoch(step // steps)
        np.testing.assert_allclose(smooth(step), by_epoch(step / steps), rtol=1e-6)
    # A count that is no float32 is counted all the same.
    many = (1 << 24) + 1
    assert int(jsplit.fitting.by_epoch(lambda epoch: epoch, 1)(many)) == many


def test_a_column_that_there_will_not_be_is_refused_before_a_step_is_taken():
    told = []
    with pytest.raises(ValueError, match="`monitor` must be one of .*val_gap"):
        jsplit.fit(
            trainer(),
            some(),
            epochs=1,
            validation=some(1),
            monitor="val_auc",
            mode="max",
            callbacks=[SimpleNamespace(on_step=told.append)],
        )
    assert not told


def test_epochs_are_compared_by_what_was_set_by_hand_or_by_the_rate_that_is_kept():
    given = {"epochs": 3, "batch": RECORDS, "mode": "min"}
    by_hand = {"b1": lambda epoch: [0.75, 0.25, 0.5][epoch]}
    asked = {"hyperparams": by_hand, "monitor": "b1"}
    assert jsplit.fit(trainer(), some(), **given, **asked).history.best == 1
    rate = {"monitor": "learning_rate"}
    assert jsplit.fit(trainer(), some(), **given, **rate).history.best == 0
    # Whether there is one shows in a state alone.
    with pytest.raises(ValueError, match="`monitor` must be one of loss, got"):
        plain = jsplit.fused(topology(), optax.sgd(0.1))
        jsplit.fit(plain, some(), **given, **rate)


def test_a_trainer_that_records_trains_the_same_and_callbacks_have_its_records():
    recorded = []
    watched = SimpleNamespace(on_step=lambda step, told: recorded.append(told))
    given = {"epochs": 1, "batch": RECORDS}
    plain = jsplit.fit(trainer(), some(), **given)
    recording = jsplit.record(trainer(), norms=True, crossed=False)
    found = jsplit.fit(recording, some(), callbacks=[watched], **given)
    assert same(found.state, plain.state)
    assert found.history.rows == plain.history.rows
    assert [type(x).__name__ for x in recorded] == ["Recorded"]


def test_what_is_empty_in_a_later_epoch_is_named():
    train = {n: x[:BATCH] for n, x in some().items()}
    once = lambda epoch: [train][epoch:]  # noqa: E731
    with pytest.raises(ValueError, match="`data` gives 0 batches in epoch 1"):
        jsplit.fit(trainer(), once, epochs=2)
    with pytest.raises(ValueError, match="`validation` gives no batch in epoch 1"):
        jsplit.fit(trainer(), [train], epochs=2, validation=once)
