"""`jsplit.party.fit`: a training by epochs over the network is that of one process, whoever is
killed, and one party's verdict ends it for all.
"""

from __future__ import annotations

import argparse
import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import command, party
from jsplit.commands import stopping
from jsplit.commands.epochs import refuse_without
from jsplit.party import epoch_verdicts, validating
from jsplit.party.begun_with import begun_with
from jsplit.party.contract.record_order import places_of
from jsplit.party.epoch_verdicts import Word
from jsplit.wire import Head
from jsplit.wire.admission import accept_between
from jsplit.wire.epoch_schedule import EpochSchedule
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.rota import Rota
from jsplit.wire.terms import Crossing, Terms
from tests.party.federation import bits, checked, free_port, layer, together
from tests.party.killing import until_done

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
    transport = party.MemoryTransport()

    def one(name):
        held = topology.holds[name]
        given = {
            "data": {f: train[f] for f in held},
            "validation": {f: validation[f] for f in held},
            "optimizer": optax.adam(0.01),
        }
        given |= of_server if name == "server" else {}

        def fit(kills):
            more = {"callbacks": [kills], **given}
            return party.fit(
                agreed,
                name,
                topology,
                credentials=party.PlaintextWithoutIdentity(name),
                remind=0.2,
                transport=transport,
                folder=folder and folder / name,
                **(more | own(name) if own else more),
            )

        return until_done(fit, (kills or {}).get(name, ()))

    return together(agreed.parties, one)


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


@pytest.fixture(scope="module")
def told():
    """An undisturbed run, in which the validation loss is told."""
    return sound(fitted(agreed_with(tells="val_loss")))


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


def test_others_learn_the_number_that_was_agreed_and_none_beside_it(told):
    known = rows_of(told["client"])
    assert known == [{"val_loss": r["val_loss"]} for r in rows_of(told["server"])]


def test_it_begins_with_a_state_as_one_process_does_and_tells_what_crossed():
    seen = {"client": [], "server": []}
    learned = in_one_process()

    def own(name):
        # Each as it has it: of `jsplit.party.fit` all that it gave.
        state = learned.state.parties[name]
        given = (
            party.Fitted(state, state, learned.history) if name == "client" else state
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
            more = {"hyperparams": rates, "optimizer": adam, "callbacks": ends}
            return given | more
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
    with pytest.raises(ValueError, match="another `data`"):
        topology, train, validation = problem()
        party.fit(
            agreed_with(),
            "client",
            topology,
            {"x": train["x"] + 1},
            validation={"x": validation["x"]},
            credentials=party.PlaintextWithoutIdentity("client"),
            optimizer=optax.adam(0.01),
            folder=tmp_path / "client",
        )


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
    ],
)
def test_what_does_not_fit_is_refused_before_anybody_is_connected(name, given, wrong):
    topology, train, validation = problem()
    held = topology.holds[name]
    usual = {
        "data": {f: train[f] for f in held},
        "validation": {f: validation[f] for f in held},
    }
    with pytest.raises(ValueError, match=wrong):
        party.fit(
            agreed_with(),
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
