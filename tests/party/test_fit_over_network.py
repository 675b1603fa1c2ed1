"""`jsplit.party.fit`: a training by epochs over the network is that of one process, whoever is
killed, and one party's verdict ends it for all.
"""

from __future__ import annotations

import argparse
import json
import threading
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import command, party
from jsplit.commands import stopping
from jsplit.commands.epochs import refuse_without
from jsplit.fitting import pieces
from jsplit.party import by_epochs, epoch_verdicts, join, validating
from jsplit.party.begun_with import begun_with
from jsplit.party.contract.record_order import Records, places_of
from jsplit.party.epoch_verdicts import Word
from jsplit.wire import Head
from jsplit.wire.admission import accept_between
from jsplit.wire.epoch_schedule import EpochSchedule
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.rota import Rota
from jsplit.wire.terms import Crossing, Terms
from tests.party.federation import bits, checked, free_port, layer, together
from tests.party.killing import all_fitted

RECORDS, BATCH, EPOCHS, STEPS, SEED = 22, 4, 3, 5, 3


@cache
def problem():
    """A pair, the server of which has the labels; records do not fill the last batches."""
    rng = np.random.default_rng(0)
    topology = jsplit.vanilla(
        layer(["x"], "h"), layer(["h"], "y", 1), loss=optax.squared_error
    )
    error = lambda y, label: float(np.abs(y - label).mean())  # noqa: E731
    topology = topology.add(jsplit.Metric("mae", error, "server", ["y", "label"]))

    def records(count):
        x = rng.normal(size=(count, 3)).astype(np.float32)
        return {"x": x, "label": np.tanh(x[:, :1])}

    return topology, records(RECORDS), records(9)


def agreed_with(weight="", nonfinite="refuse", **epochs):
    topology, train, validation = problem()
    first = {n: x[:BATCH] for n, x in train.items()}
    said = {"records": RECORDS, "validation": len(validation["x"])} | epochs
    return party.agreement(
        topology,
        first,
        addresses={"server": "127.0.0.1:9"},
        seed=SEED,
        patience=20.0,
        checkpoint=1,
        weight=weight,
        nonfinite=nonfinite,
        epochs=party.epochs(EPOCHS, **said),
    )


def fitted(agreed, folder=None, kills=None, own=None, **of_server):
    """What all parties are left with; each is started again wherever it is killed."""
    topology, train, validation = problem()

    def given(name):
        held = topology.holds[name]
        found = {
            "data": {f: train[f] for f in held},
            "validation": {f: validation[f] for f in held},
            "optimizer": optax.adam(0.01),
        }
        found |= of_server if name == "server" else {}
        return found | (own(name) if own else {})

    return all_fitted(agreed, topology, given, folder, kills)


def sound(found) -> dict[str, party.Fitted]:
    """What all are left with, if all came to a good end."""
    checked(found)
    return found


def epoch(number):
    """The batches of an epoch, as the parties take them."""
    steps = range(number * STEPS, (number + 1) * STEPS)
    places = [places_of(step, RECORDS, BATCH, SEED) for step in steps]
    return [{n: x[at] for n, x in problem()[1].items()} for at in places]


@cache
def in_one_process(state=None):
    topology, _, validation = problem()

    parts = [{n: x[i : i + BATCH] for n, x in validation.items()} for i in (0, 4, 8)]
    trainer = jsplit.messages(topology, optax.adam(0.01))
    given = {"validation": parts, "state": state and state()}
    return jsplit.fit(trainer, epoch, epochs=EPOCHS, key=SEED, **given)


def begun_anew():
    """What a training has learned, with steps that are counted anew."""
    learned = in_one_process().state.parties
    return jsplit.TrainState(
        {name: own._replace(step=own.step * 0) for name, own in learned.items()}
    )


def shuffled(name, **change):
    """What a party brings with ids, of which the client has another order."""
    topology, train, validation = problem()
    rng, found = np.random.default_rng(len(change)), {"ids_key": bytes(32)}
    for what, given in (("data", train), ("validation", validation)):
        count = len(given["x"])
        order = rng.permutation(count) if name == "client" else np.arange(count)
        found[what] = {f: given[f][order] for f in topology.holds[name]}
        ids = "ids" if what == "data" else "validation_ids"
        found[ids] = [f"{n:02}" for n in order]
    return found | change


class Called:
    """What a callback is told, in order."""

    def __init__(self):
        self.calls = []

    def on_start(self, history):
        self.calls.append(("start", len(history)))

    def on_end(self, history):
        self.calls.append(("end", history.stopped))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("told")


@pytest.fixture(scope="module")
def told(folder):
    """An undisturbed run, in which the validation loss is told."""
    called = {name: Called() for name in ("client", "server")}

    def own(name):
        return shuffled(name) | {"callbacks": [called[name]]}

    found = sound(fitted(agreed_with(tells="val_loss"), folder, own=own))
    for one in called.values():
        assert one.calls == [("start", 0), ("end", "epochs")]
    return found


def rows_of(fit):
    return [dict(row) for row in fit.history.rows]


def test_it_is_the_training_of_one_process_to_the_bit(told):
    whole = in_one_process()
    assert rows_of(told["server"]) == rows_of(whole)
    assert {"loss", "val_loss", "val_mae"} == {*rows_of(whole)[0]}
    for name, own in told.items():
        assert bits(own.state) == bits(whole.state.parties[name])
        assert bits(own.best) == bits(whole.best.parties[name])
        assert own.history.best == whole.history.best
        assert own.history.stopped == "epochs"


def test_the_arrays_of_all_parties_fitted_in_one_process_are_read_as_parties_read_them():
    topology, train, validation = problem()
    assert RECORDS % BATCH  # so that an epoch leaves some out
    trainer = jsplit.messages(topology, optax.adam(0.01))
    read = {"batch": BATCH, "last": "drop", "key": SEED, "validation": validation}
    whole = jsplit.fit(trainer, train, epochs=EPOCHS, **read)
    assert rows_of(whole) == rows_of(in_one_process())


def test_others_learn_the_number_that_was_agreed_and_none_beside_it(told):
    known = rows_of(told["client"])
    assert known == [{"val_loss": r["val_loss"]} for r in rows_of(told["server"])]


def test_who_makes_the_same_call_again_has_what_there_is(told, folder):
    # The same records in another order are the same training.
    own = lambda name: shuffled(name, guard=None)  # noqa: E731
    again = sound(fitted(agreed_with(tells="val_loss"), folder, own=own))
    for name, fit in again.items():
        assert fit.history == told[name].history
        for part in ("state", "best"):
            assert bits(getattr(fit, part)) == bits(getattr(told[name], part))


def other_than_first(brought, what):
    """Other records, but for those that a first step reads."""
    ids, first = "ids", places_of(0, RECORDS, BATCH, SEED)
    if what == "validation":
        ids, first = "validation_ids", np.arange(BATCH)
    seen = np.isin([int(n) for n in brought[ids]], first)[:, None]
    return {"x": np.where(seen, brought[what]["x"], brought[what]["x"] + 1)}


@pytest.mark.parametrize(
    ("name", "given", "word"),
    [
        ("client", {}, "data"),
        ("client", {}, "validation"),
        ("server", {"monitor": "val_mae", "mode": "min"}, "monitor"),
        ("server", {"monitor": "val_loss", "mode": "max"}, "mode"),
        ("server", {"tells": ""}, "epochs"),
        ("client", {"tells": "val_mae"}, "epochs"),
    ],
)
@pytest.mark.usefixtures("told")
def test_another_training_is_not_taken_for_the_one_that_was_begun(
    folder, name, given, word
):
    brought = shuffled(name)
    if word in brought:
        brought[word] = other_than_first(brought, word)
    agreed = agreed_with(tells=given.pop("tells", "val_loss"))
    with pytest.raises(ValueError, match=f"`folder` has.*another `{word}`"):
        party.fit(
            agreed,
            name,
            problem()[0],
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optax.adam(0.01),
            folder=folder / name,
            **brought,
            **given,
        )


@pytest.mark.usefixtures("told")
def test_where_a_callback_fails_at_the_start_the_others_are_told_of_the_end(folder):
    class Fails:
        def on_start(self, history):
            raise OSError

    called = Called()
    with pytest.raises(OSError):
        party.fit(
            agreed_with(tells="val_loss"),
            "server",
            problem()[0],
            credentials=party.PlaintextWithoutIdentity("server"),
            optimizer=optax.adam(0.01),
            folder=folder / "server",
            callbacks=[called, Fails()],
            **shuffled("server"),
        )
    assert called.calls == [("start", EPOCHS), ("end", "")]


def test_batches_of_a_function_are_told_apart_by_the_first_and_large_data_by_it(
    monkeypatch,
):
    x = problem()[1]["x"]

    def digest(data, steps=1):
        return by_epochs._digest_of(Records(data), agreed_with(), steps)

    assert digest({}) is None
    one, other = (digest(lambda step, more=more: {"x": x + more}) for more in (0, 1))
    assert one != other and one == digest(lambda step: {"x": x + step})
    # Of many records none but those of the first step are looked at.
    monkeypatch.setattr(pieces, "_WHOLE", 1)
    first = places_of(0, RECORDS, BATCH, SEED)
    other = np.where(np.isin(np.arange(RECORDS), first)[:, None], x, x + 1)
    assert digest({"x": other}) == digest({"x": x}) != digest({"x": x + 1})
    # A validation begins with the first ones.
    assert digest({"x": x}, 0) == digest(
        {"x": np.append(x[:BATCH], x[BATCH:] + 1, 0)}, 0
    )


def test_who_is_asked_to_stop_ends_after_the_step_and_goes_on_to_the_bit(tmp_path):
    stops = {name: threading.Event() for name in ("client", "server")}

    def stopping(name):
        def on_step(step, metrics):
            if step == 7:
                stops[name].set()

        return {"stop": stops[name], "callbacks": [SimpleNamespace(on_step=on_step)]}

    stopped = sound(fitted(agreed_with(), tmp_path, own=stopping))
    for fit in stopped.values():
        history = fit.history
        assert (history.stopped, history.steps, len(history)) == ("interrupted", 7, 1)
        assert (int(fit.state.step), int(fit.best.step)) == (7, STEPS)
    found, whole = sound(fitted(agreed_with(), tmp_path)), in_one_process()
    assert rows_of(found["server"]) == rows_of(whole)
    for name, own in found.items():
        assert own.history.stopped == "epochs"
        assert bits(own.state) == bits(whole.state.parties[name])
        assert bits(own.best) == bits(whole.best.parties[name])


def test_it_begins_with_a_state_as_one_process_does_and_tells_what_crossed(monkeypatch):
    # The guard is that of the party, which need not find something to look at here.
    looked = []
    guard: Any = SimpleNamespace(
        begin=looked.append,
        ended=looked.append,
        saved=lambda step, committed: None,
        evidence=(),
    )

    @contextmanager
    def prepare(agreed, name, task, brought):
        with join.prepare(agreed, name, task, brought) as prepared:
            prepared.guard = guard if name == "client" else None
            yield prepared

    monkeypatch.setattr(by_epochs, "prepare", prepare)
    seen = {"client": [], "server": []}
    learned = in_one_process()

    def own(name):
        # Each as it has it: of `jsplit.party.fit` all that it gave.
        state = learned.state.parties[name]
        best = learned.best.parties[name]
        best = best._replace(params=jax.tree.map(lambda x: x + 1, best.params))
        given = (
            party.Fitted(state, best, learned.history) if name == "client" else state
        )
        return {"state": given, "record": seen[name].append, "norms": name == "client"}

    found, whole = sound(fitted(agreed_with(), own=own)), in_one_process(begun_anew)
    assert rows_of(found["server"]) == rows_of(whole)
    assert rows_of(whole) != rows_of(learned)
    for name, fit in found.items():
        assert bits(fit.state) == bits(whole.state.parties[name])
        # What was given is the caller's as before.
        assert not any(
            x.is_deleted() for x in jax.tree.leaves(learned.state.parties[name])
        )
        assert [x.step for x in seen[name]] == [*range(EPOCHS * STEPS)]
    for mine, other in zip(*seen.values(), strict=True):
        assert mine.crossed.keys() == other.crossed.keys()
        for at in mine.crossed:
            assert bits(mine.crossed[at].value) == bits(other.crossed[at].value)
    assert seen["client"][0].norms.gradient["h"] > 0 and seen["server"][0].norms is None
    assert looked == [0, *range(EPOCHS * STEPS)]


def test_weights_rates_by_epoch_and_an_end_by_a_callback_are_those_of_one_process(
    caplog,
):
    topology, train, _ = problem()
    counts = np.where(train["label"][:, 0] > 0, 2.0, 0.5).astype(np.float32)
    rates = {"learning_rate": lambda epoch: 0.02 / (1 + epoch)}
    adam = optax.inject_hyperparams(optax.adam)(0.01)
    ends = [lambda told: told.number == 1]

    def own(name):
        data = {f: train[f] for f in topology.holds[name]} | {"counts": counts}
        given = {"data": data, "validation": None, "ids_key": bytes(32)}
        if name == "server":
            # The same numbers, by class and by record.
            data["counts"] = np.full(RECORDS, 0.5, np.float32)
            data["kind"] = (train["label"][:, 0] > 0).astype(np.int32)
            by_class = {"class_weight": {0: 1.0, 1: 4.0}, "label": "kind"}
            more = {"hyperparams": rates, "optimizer": adam, "callbacks": ends}
            return given | more | by_class
        # Who does not decide ends nothing.
        return given | {"callbacks": [lambda told: told.number == 0]}

    def weighted(number):
        return [(b, np.where(b["label"][:, 0] > 0, 2.0, 0.5)) for b in epoch(number)]

    agreed = agreed_with("counts", validation=0)
    found = sound(fitted(agreed, own=own))
    optimizers = {"client": optax.adam(0.01), "server": adam}
    trainer = jsplit.messages(topology, optimizers)
    asked = {"epochs": EPOCHS, "key": SEED, "hyperparams": rates, "callbacks": ends}
    whole = jsplit.fit(trainer, weighted, **asked)
    assert rows_of(found["server"]) == rows_of(whole) and len(whole.history) == 2
    assert found["server"].history.stopped == whole.history.stopped == "callback"
    assert found["client"].history.stopped == "verdict"
    assert found["client"].history.monitor == "the verdict of server"
    assert "a callback would end the training, which only `server` can" in caplog.text
    for name, fit in found.items():
        assert bits(fit.state) == bits(whole.state.parties[name])


@pytest.mark.slow
def test_steps_that_are_left_out_count_for_nothing_as_in_one_process():
    topology, train, _ = problem()
    x = train["x"].copy()
    x[5] = np.inf

    def own(name):
        data = {"x": x} if name == "client" else {"label": train["label"]}
        return {"data": data, "validation": None}

    def spoilt(number):
        steps = range(number * STEPS, (number + 1) * STEPS)
        places = [places_of(step, RECORDS, BATCH, SEED) for step in steps]
        return [{"x": x[at], "label": train["label"][at]} for at in places]

    found = sound(fitted(agreed_with(nonfinite="skip", validation=0), own=own))
    trainer = jsplit.messages(topology, optax.adam(0.01), nonfinite="skip")
    whole = jsplit.fit(trainer, spoilt, epochs=EPOCHS, key=SEED)
    assert rows_of(found["server"]) == rows_of(whole)
    assert any(row.get("skipped") == 1 for row in rows_of(whole))
    for name, fit in found.items():
        assert bits(fit.state) == bits(whole.state.parties[name])


def test_of_a_state_that_is_given_the_secret_is_not_used_twice():
    """Nor is what links remember, of which the other end may know nothing."""
    first = jsplit.PartyState(
        {"h": {"w": jnp.zeros(2)}},
        {"h": {}},
        (jnp.zeros(2),),
        {"h": jnp.zeros(3)},
        jax.random.key(0),
        jnp.int32(0),
        jax.random.key(1),
    )
    given = jax.tree.map(lambda x: x + 1, first._replace(key=None, secret=None))
    given = given._replace(key=jax.random.key(2), secret=jax.random.key(3))
    begun = begun_with(first, given, anything=False)
    wanted = first._replace(params=given.params, optimizer=given.optimizer)
    assert bits(begun) == bits(wanted)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda own: (own, own), "a jsplit.PartyState or what jsplit.party.fit"),
        (lambda own: own._replace(optimizer=()), r"`optimizer\[0\].*is not there"),
        (
            lambda own: own._replace(params={"h": [jnp.ones((3, 5))]}),
            r"\[3, 5\].*\[3, 4\]",
        ),
        (
            lambda own: own._replace(params={"h": [jnp.ones((3, 4), int)]}),
            "int.*float32",
        ),
        (lambda own: own._replace(params={"h": (jnp.ones((3, 4)),)}), "another form"),
        (
            lambda own: own._replace(params={"h": [jnp.nan * jnp.ones((3, 4))]}),
            "not finite",
        ),
    ],
)
def test_a_state_of_something_else_is_refused_before_anybody_is_connected(
    change, wrong
):
    topology, train, validation = problem()
    with pytest.raises(ValueError, match=f"`state`.*{wrong}"):
        party.fit(
            agreed_with(),
            "client",
            topology,
            {"x": train["x"]},
            validation={"x": validation["x"]},
            credentials=party.PlaintextWithoutIdentity("client"),
            optimizer=optax.adam(0.01),
            state=change(in_one_process().state.parties["client"]),
        )


@pytest.mark.slow
def test_whoever_is_killed_it_goes_on_to_the_bit_and_tells_nothing(tmp_path):
    kills = {"client": [3, "epoch 1"], "server": [8, "epoch 2"]}
    found, whole = sound(fitted(agreed_with(), tmp_path, kills)), in_one_process()
    assert rows_of(found["server"]) == rows_of(whole)
    assert rows_of(found["client"]) == [{}] * EPOCHS
    for name, own in found.items():
        assert bits(own.state) == bits(whole.state.parties[name])
        assert bits(own.best) == bits(whole.best.parties[name])


@pytest.mark.slow
def test_all_end_by_one_verdict_and_each_has_the_best_of_its_own_part(tmp_path):
    # The loss falls, so by its maximum the first epoch is the best.
    most = {"monitor": "loss", "mode": "max", "patience": 1}
    kills = {"client": ["epoch 1"]}
    found = sound(fitted(agreed_with(), tmp_path, kills, **most))
    reasons = {"server": "patience", "client": "verdict"}
    for name, own in found.items():
        assert own.history.stopped == reasons[name]
        assert (len(own.history), own.history.best) == (2, 0)
        assert (int(own.state.step), int(own.best.step)) == (2 * STEPS, STEPS)
        # As a folder of checkpoints, of which inference reads the newest.
        best = [f.name for f in (tmp_path / name / "best").iterdir() if f.is_dir()]
        assert best == [f"{STEPS:012}"]
    again = sound(fitted(agreed_with(), tmp_path, **most))
    assert bits(again["client"].best) == bits(found["client"].best)


@pytest.mark.slow
def test_a_verdict_that_cannot_be_ends_the_run_in_a_line_that_names_who_said_it(
    monkeypatch,
):
    lie = lambda epoch, word, told: epoch_verdicts.frame_of(epoch + 1, word, told)  # noqa: E731
    monkeypatch.setattr(validating, "frame_of", lie)
    found = fitted(agreed_with())
    assert isinstance(found["client"], Refused)
    assert "`server` told `client`" in str(found["client"])
    assert "a verdict on epoch 1 in epoch 0" in str(found["client"])
    assert isinstance(found["server"], Refused)


@pytest.mark.parametrize(
    ("said", "epoch", "last", "wrong"),
    [
        ((0, 9), 0, True, "is no verdict"),
        ((0, -1), 0, True, "is no verdict"),
        ((2, Word.BEST), 1, True, "on epoch 2 in epoch 1"),
        ((1, Word.MEASURED), 1, True, "in the place of a verdict"),
        ((1, Word.STOP), 1, False, "before the verdict"),
        ((0, Word.CONTINUE), 0, True, "first epoch is not the best"),
    ],
)
def test_a_verdict_is_looked_at_before_it_counts(said, epoch, last, wrong):
    with pytest.raises(ValueError, match=wrong):
        epoch_verdicts.read([np.array(said, np.int32)], epoch, last=last)


def test_nobody_else_may_send_a_verdict_nor_at_another_time_nor_of_another_form():
    word = ((np.dtype(np.int32), (2,)),)
    schedule = EpochSchedule(Rota(1, ((0, 8),), 8), 1, (), every=4, steps=8, training=1)
    crossings = (
        Crossing("activation", "h", (0,), 1),
        Crossing("verdict", "verdict", (1,), 0),
    )
    terms = Terms(
        b"r" * 32,
        ("client", "server"),
        crossings,
        (word, word),
        8,
        schedule=schedule,
        counts=(1, 3),
        end_shapes=(word, word),
    )
    given = {"run": terms.run, "sender": 1, "receiver": 0, "value": 1, "step": 3}
    right = Head("verdict", shapes=word, micro=2, **given)
    accept_between(terms, 0, 1, right)
    assert [terms.tables(1, 0)[1].has(s) for s in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]
    back = {**given, "sender": 0, "receiver": 1}
    with pytest.raises(RemoteProtocolError, match="`client` may not send verdict"):
        accept_between(terms, 1, 0, Head("verdict", shapes=word, **back))
    with pytest.raises(RemoteProtocolError, match="which there is not"):
        accept_between(terms, 0, 1, Head("verdict", shapes=word, micro=3, **given))
    long = ((np.dtype(np.int32), (3,)),)
    with pytest.raises(RemoteProtocolError, match="the agreement says"):
        accept_between(terms, 0, 1, Head("verdict", shapes=long, **given))


def test_epochs_are_part_of_what_parties_compare():
    agreed = agreed_with()
    assert agreed.epochs is not None
    assert (agreed.steps, agreed.epochs.steps) == (EPOCHS * STEPS, STEPS)
    assert agreed != agreed_with(tells="val_loss")
    assert agreed.replace(steps=50).epochs == agreed.epochs
    wrong = {
        "steps": ({"steps": 16}, "no number of epochs"),
        "checkpoint": ({"checkpoint": 2}, "does not divide"),
        "decides": (
            {"epochs": {**agreed["epochs"], "decides": "client"}},
            "one of server",
        ),
        "validation": ({"epochs": {**agreed["epochs"], "validation": True}}, "integer"),
        "tells": ({"epochs": {**agreed["epochs"], "tells": None}}, "a text, got None"),
        "epochs": ({"epochs": {**agreed["epochs"], "more": 1}}, "must have decides"),
    }
    for name, (change, words) in wrong.items():
        with pytest.raises(ValueError, match=f"`{name}`.*{words}"):
            agreed.replace(**change)


@pytest.mark.parametrize(
    ("name", "given", "wrong"),
    [
        ("client", {"patience": 2}, "`patience` is for `server`"),
        ("client", {"monitor": "val_loss"}, "`monitor` is for `server`"),
        ("server", {"monitor": "val_auc"}, "`mode`"),
        (
            "server",
            {"monitor": "val_auc", "mode": "max"},
            "one of loss, val_loss, val_mae",
        ),
        ("client", {"class_weight": "balanced"}, "needs an agreement with `weight`"),
        ("client", {"hyperparams": {"learning_rate": 0.1}}, "`hyperparams` must be"),
        ("client", {"validation": None}, "`validation` must have x"),
        ("client", {"validation": {"x": jnp.ones((4, 3))}}, "4 records.*says 9"),
        ("client", {"data": {"x": jnp.ones((40, 3))}}, "40 records, 10 batches"),
        ("client", {"agreed": {"validation": 0}}, "`validation` is given, and the"),
        (
            "server",
            {
                "agreed": {"weight": "counts"},
                "data": lambda step: {},
                "class_weight": "balanced",
            },
            "`class_weight` is for `data` of fields",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anybody_is_connected(name, given, wrong):
    topology, train, validation = problem()
    held = topology.holds[name]
    usual = {
        "data": {f: train[f] for f in held},
        "validation": {f: validation[f] for f in held},
    }
    agreed = agreed_with(**given.pop("agreed", {}))
    with pytest.raises(ValueError, match=wrong):
        party.fit(
            agreed,
            name,
            topology,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optax.adam(0.01),
            **(usual | given),
        )


def test_a_run_of_steps_does_not_take_an_agreement_of_epochs():
    with pytest.raises(ValueError, match="call `jsplit.party.fit`"):
        party.run(
            agreed_with(), "client", {}, credentials=party.PlaintextWithoutIdentity("x")
        )


PARTS = """
from tests.party import test_fit_over_network as tests


def agreed():
    # With an address of its own for each run.
    return tests.agreed_with()


def given(name):
    topology, train, validation = tests.problem()
    held = topology.holds[name]
    rest = {"patience": 9, "min_delta": 0.0} if name == "server" else {}
    return rest | {
        "own": topology,
        "data": {f: train[f] for f in held},
        "validation": {f: validation[f] for f in held},
        "optimizer": tests.optax.adam(0.01),
    }
"""


@pytest.mark.slow
def test_the_command_trains_by_epochs_and_says_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping.signal, "signal", lambda *_: None)
    (tmp_path / "parts.py").write_text(PARTS)
    agreed = agreed_with(tells="val_loss")
    party.write(
        "agreement.json",
        agreed.replace(addresses={"server": f"127.0.0.1:{free_port()}"}),
    )

    def one(name):
        words = ["train", "agreement.json", name, "parts.py:given", "--checkpoint"]
        words += [name, "--plaintext-without-identity", "--log", f"{name}.log"]
        # As the options of the party that decides.
        words += ["--monitor", "loss", "--mode", "max"] if name == "server" else []
        return command.main([*words, *(["--patience", "1"] * (name == "server"))])

    assert command.main(["show", "agreement.json"]) == 0
    assert "server decides, tells all val_loss" in capsys.readouterr().out
    assert together(agreed.parties, one) == {"client": 0, "server": 0}
    said = capsys.readouterr().out
    assert "server: done by patience after 2 epochs, the best was epoch 0" in said
    assert "client: done by verdict after 2 epochs, the best was epoch 0" in said
    lines = [json.loads(x) for x in (tmp_path / "client.log").read_text().splitlines()]
    assert [(x["epoch"], x["best"]) for x in lines] == [(0, True), (1, False)]


def test_options_of_epochs_without_them_are_refused():
    options = argparse.Namespace(monitor=None, mode=None, patience=3)
    with pytest.raises(ValueError, match="`--patience` is for an agreement with"):
        refuse_without(options, {})
    with pytest.raises(ValueError, match="`validation` is for an agreement with"):
        refuse_without(
            argparse.Namespace(**dict.fromkeys(vars(options))), {"validation": 1}
        )
