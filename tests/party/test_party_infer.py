"""Inference over the network: with one state that all have, of data of the agreed dtypes.

Metrics are of all records, at the party that has what they read.
"""

from __future__ import annotations

import shutil

import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.commands.statuses import status_of
from jsplit.party.contract.field_types import check_dtypes
from jsplit.party.saved_states import SavedStates
from tests.party.federation import (
    IDS_KEY,
    Small,
    agreed_for,
    checked,
    layer,
    optimizers,
    together,
)

RNG = np.random.default_rng(0)
COUNT = 21
FIELDS = {
    "x": RNG.normal(size=(COUNT, 3)).astype(np.float32),
    "label": (RNG.normal(size=(COUNT, 1)) > 0).astype(np.float32),
}
BATCH = {f: x[:8] for f, x in FIELDS.items()}


def auc(y, label):
    order = np.sign(y[label > 0][:, None] - y[label == 0][None])
    return ((order + 1) / 2).mean()


def pair(*metrics):
    """A client with records and a server with labels; a metric may be added."""
    squares = lambda y, label: (y - label) ** 2  # noqa: E731
    topology = jsplit.vanilla(
        layer(["x"], "h"), layer(["h"], "y", 1), loss=squares
    ).add(*metrics)
    return Small(topology, BATCH)


AUC = jsplit.Metric("auc", auc, "server", ["y", "label"])
SPREAD = jsplit.Metric("spread", lambda y: y.std(), "client", ["y"])


def given(problem, name, hub, **options):
    held = problem.topology.holds.get(name, ())
    return {
        "data": {f: FIELDS[f] for f in held},
        "credentials": party.PlaintextWithoutIdentity(name),
        "ids": list(range(COUNT)),
        "ids_key": IDS_KEY,
        "remind": 0.2,
        "transport": hub,
    } | options


def train(agreed, problem, folder=None, **options):
    hub, rates = party.MemoryTransport(), optimizers(problem.topology)

    def one(name):
        own = {} if folder is None else {"checkpoint": folder / name}
        return party.run(
            agreed,
            name,
            problem.topology,
            optimizer=rates[name],
            **given(problem, name, hub, **own, **options),
        )

    return together(agreed.parties, one)


def infer(work, agreed, problem, own):
    """All parties evaluate or predict; `own(name)` gives its state or its checkpoint."""
    hub = party.MemoryTransport()

    def one(name):
        options = given(problem, name, hub, records=COUNT, **own(name))
        return work(agreed, name, problem.topology, **options)

    return together(agreed.parties, one)


def in_one_process(problem, step):
    """The trainer, and the state of a step, of whoever has all records."""
    trainer = jsplit.messages(problem.topology, optimizers(problem.topology))
    batch = party.batches(agreed_for(problem), FIELDS, list(range(COUNT)))
    state = trainer.init(3, BATCH)
    for i in range(step):
        state, _ = trainer.step(state, batch(i))
    return trainer, state


def test_metrics_over_the_network_are_of_all_records_at_their_party():
    """In batches of 8, 8 and 5; and training computes and sends nothing for them."""
    problem = pair(AUC, SPREAD)
    agreed = agreed_for(problem, steps=3)
    assert [w.label for w in agreed.wires] == [
        "activation h to server",
        "activation y to client",
        "cotangent h to client",
    ]
    trained = checked(train(agreed, problem))
    own = {name: {"state": r.state} for name, r in trained.items()}
    found = checked(infer(party.evaluate, agreed, problem, own.get))
    trainer, state = in_one_process(problem, 3)
    whole = trainer.evaluate(state, FIELDS)
    y = np.asarray(trainer.predict(state, {"x": FIELDS["x"]})["y"])
    assert whole.metrics["auc"] == auc(y, FIELDS["label"])
    assert found["server"].metrics == {"auc": whole.metrics["auc"]}
    assert found["client"].metrics == pytest.approx({"spread": y.std()}, rel=1e-6)
    loss = float(whole.loss)
    assert found["server"].losses["loss"] == pytest.approx(loss, rel=1e-6)


def test_a_run_may_be_evaluated_by_metrics_that_it_was_not_trained_with(tmp_path):
    """Even by one for which a value crosses that crossed in no step."""
    plain, more = pair(), pair(AUC, SPREAD)
    checked(train(agreed_for(plain, steps=2), plain, tmp_path))
    agreed = agreed_for(more, steps=2)
    assert agreed.schema == agreed_for(plain).schema
    own = lambda name: {"checkpoint": tmp_path / name}  # noqa: E731
    found = checked(infer(party.evaluate, agreed, more, own))
    trainer, state = in_one_process(more, 2)
    assert (
        found["server"].metrics["auc"] == trainer.evaluate(state, FIELDS).metrics["auc"]
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Parties that have trained 6 steps, with checkpoints of 2, 4 and 6 by their own folders."""
    folder = tmp_path_factory.mktemp("saved")
    problem = pair()
    agreed = agreed_for(problem, steps=6, checkpoint=2)
    checked(train(agreed, problem, folder))
    return folder, problem, agreed


def steps_of(folder):
    return sorted(int(x.name) for x in folder.iterdir() if x.name.isdigit())


@pytest.mark.parametrize("behind", ["client", "server"])
def test_all_infer_with_the_newest_step_that_all_have(saved, tmp_path, behind):
    """One party has lost its last checkpoint; whoever leads, the others go back with it."""
    folder, problem, agreed = saved
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert steps_of(tmp_path / behind)[-2:] == [4, 6]
    shutil.rmtree(tmp_path / behind / f"{6:012}")
    own = lambda name: {"checkpoint": tmp_path / name}  # noqa: E731
    evaluated = checked(infer(party.evaluate, agreed, problem, own))
    predicted = checked(infer(party.predict, agreed, problem, own))
    trainer, state = in_one_process(problem, 4)
    for results in (evaluated, predicted):
        assert {r.step for r in results.values()} == {4}
        assert {int(r.state.step) for r in results.values()} == {4}
    loss = float(trainer.evaluate(state, FIELDS).loss)
    assert evaluated["server"].losses["loss"] == pytest.approx(loss, rel=1e-6)
    y = trainer.predict(state, {"x": FIELDS["x"]})["y"]
    assert np.allclose(predicted["server"].outputs["y"], y, rtol=1e-6)


def test_a_party_may_have_what_it_decodes_at_the_cut(saved):
    """In the order of its records, and of a state that all have; the others do nothing for it."""
    folder, problem, agreed = saved
    hub = party.MemoryTransport()

    def one(name, **options):
        options |= given(problem, name, hub, records=COUNT, checkpoint=folder / name)
        return party.predict(agreed, name, problem.topology, **options)

    asked = {"server": {"at": ["h", "y"]}, "client": {}}
    found = checked(together(agreed.parties, lambda name: one(name, **asked[name])))
    trainer, state = in_one_process(problem, 6)
    seen = trainer.predict(state, {"x": FIELDS["x"]}, at=["h", "y"])
    outputs = found["server"].outputs
    assert {*outputs} == {"h", "y"} and found["client"].outputs == {}
    for name, value in outputs.items():
        assert np.allclose(value, seen[name], rtol=1e-6, atol=1e-6)

    for name, at in (("client", "h"), ("server", "x"), ("server", [])):
        with pytest.raises(ValueError, match="`at` must name values that"):
            one(name, at=at)


def test_parties_without_a_step_in_common_are_told_who_has_which(saved):
    folder, problem, agreed = saved
    old = checked(train(agreed.replace(steps=1), problem))["client"].state
    own = {"client": {"state": old}, "server": {"checkpoint": folder / "server"}}
    for work in (party.evaluate, party.predict):
        for error in infer(work, agreed, problem, own.get).values():
            assert isinstance(error, party.Refused)
            said = str(error)
            assert "no checkpoint in common" in said
            assert "`client` [1]" in said and "`server` [4, 6]" in said
            # A training beside it goes on: the next time they may have one.
            assert status_of(error) == 75


def test_a_step_that_went_while_parties_met_is_named(saved, tmp_path):
    """Training goes on in the folder, and deletes what all were to infer with."""
    folder, problem, agreed = saved
    shutil.copytree(folder / "client", tmp_path, dirs_exist_ok=True)
    like = in_one_process(problem, 0)[1].parties["client"]
    states = SavedStates(tmp_path, "client", agreed.schema, like)
    assert states.steps == (4, 6) and int(states.restore(4).step) == 4
    shutil.rmtree(tmp_path / f"{4:012}")
    with pytest.raises(ValueError, match=r"of `client` has the step 4 no more.* \[6\]"):
        states.restore(4)


@pytest.mark.parametrize("of", ["fields", "function"])
def test_data_of_another_dtype_than_agreed_is_refused(of):
    """Integers run through a dense layer as floats do, and train another model."""
    problem = pair()
    agreed = agreed_for(problem, steps=2)
    assert agreed.fields == {"x": "float32", "label": "float32"}
    wrong = {"x": FIELDS["x"].astype(np.int32)}
    message = "`data` of `client`: the field `x` is int32, the agreement says float32: convert"
    options = given(problem, "client", party.MemoryTransport())
    options["data"] = wrong if of == "fields" else lambda step: wrong
    options["ids"] = None
    with pytest.raises(ValueError, match=message):
        party.run(
            agreed, "client", problem.topology, optimizer=optax.sgd(0.1), **options
        )
    if of == "fields":
        state = in_one_process(problem, 0)[1].parties["client"]
        for work in (party.evaluate, party.predict):
            with pytest.raises(ValueError, match=message):
                work(
                    agreed,
                    "client",
                    problem.topology,
                    records=COUNT,
                    state=state,
                    **options,
                )


def test_a_function_of_the_step_may_not_change_its_dtype():
    problem = pair()
    # The other waits for this one as long as that.
    agreed = agreed_for(problem, steps=4, patience=2.0)

    def batch(step):
        return {"x": BATCH["x"].astype(np.float16 if step == 2 else np.float32)}

    hub, rates = party.MemoryTransport(), optimizers(problem.topology)

    def one(name):
        own = {"ids": None, "data": batch if name == "client" else lambda _: rest}
        return party.run(
            agreed,
            name,
            problem.topology,
            optimizer=rates[name],
            **given(problem, name, hub, **own),
        )

    rest = {"label": BATCH["label"]}
    found = together(agreed.parties, one)
    assert "the field `x` is float16, the agreement says float32" in str(
        found["client"]
    )


def test_64_bits_are_what_jax_makes_of_them():
    """Double precision, given where JAX computes with single, is no other data."""
    agreed = agreed_for(pair()._replace(batch=BATCH | {"x": np.ones((8, 3))}))
    assert agreed.fields["x"] == "float32"
    check_dtypes(agreed.fields, {"x": np.ones((2, 3))}, "client")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fields": {"x": "float99"}},
            "gives `x` the dtype float99, which there is not",
        ),
        ({"fields": {"z": "float32"}}, "`fields` names `z`, which no party holds"),
        ({"fields": {"x": 3}}, "`fields` must give the dtype of `x`"),
        ({"metrics": [{"name": "m"}]}, "does not hold what it must"),
    ],
)
def test_an_agreement_on_dtypes_and_metrics_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        agreed_for(pair(AUC)).replace(**change)
