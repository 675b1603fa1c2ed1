"""`jsplit.party.fit` of clients that take turns: epochs over the network are the rounds of one
process, every client has the best of the one model, and the verdict is one party's.
"""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.contract.record_order import places_of
from jsplit.party.crossings_of_epochs import EpochFrames
from jsplit.populations.round import Round
from jsplit.wire.terms import Crossing
from tests.party.federation import bits, checked, layer, together
from tests.party.killing import all_fitted

BATCH, EPOCHS, SEED, VALIDATED = 4, 3, 3, 9
ORDER = [("north", 2), ("south", 3)]
COUNTS = {"north": 10, "south": 9}
STEPS = sum(n for _, n in ORDER)


@cache
def problem(labels="server"):
    """A pair, or a U whose client has the labels, with each client's own records."""
    rng = np.random.default_rng(0)
    squares = optax.squared_error
    if labels == "server":
        topology = jsplit.vanilla(layer(["x"], "h"), layer(["h"], "y", 1), loss=squares)
    else:
        topology = jsplit.u_shaped(
            layer(["x"], "h"), layer(["h"], "m"), layer(["m"], "y", 1), loss=squares
        )
    error = lambda y, label: float(np.abs(y - label).mean())  # noqa: E731
    topology = topology.add(jsplit.Metric("mae", error, labels, ["y", "label"]))

    def records(count):
        x = rng.normal(size=(count, 3)).astype(np.float32)
        return {"x": x, "label": np.tanh(x[:, :1])}

    return topology, {c: records(n) for c, n in COUNTS.items()}, records(VALIDATED)


def agreed_with(labels="server", handoff="peer", microbatches=1, **epochs):
    topology, train, _ = problem(labels)
    first = {f: x[:BATCH] for f, x in train["north"].items()}
    clients = {name: {"client": name} for name in COUNTS}
    said = {"validation": 0 if handoff == "none" else VALIDATED} | epochs
    return party.agreement(
        topology,
        first,
        addresses={"server": "127.0.0.1:9"},
        seed=SEED,
        patience=20.0,
        checkpoint=1,
        weight="counts",
        microbatches=microbatches,
        turns=party.turns(clients, ORDER, handoff),
        epochs=party.epochs(EPOCHS, **said),
    )


def fitted(agreed, labels="server", folder=None, kills=None, own=None, **of_decider):
    """What all parties are left with; each is started again wherever it is killed."""
    topology, train, validation = problem(labels)
    decides = "server" if labels == "server" else "south"

    def given(name):
        held = topology.holds.get("server" if name == "server" else "client", ())
        weighed = {c: x | {"counts": ones(c)} for c, x in train.items()}
        held = [*held, *([agreed.weight] if agreed.weight and held else [])]
        mine = {c: {f: x[f] for f in held} for c, x in weighed.items()}
        found = {"data": mine if name == "server" else mine[name]}
        found |= {"optimizer": optax.adam(0.01), "ids_key": bytes(32)}
        if agreed.epochs.validation and name != "north":
            found["validation"] = {f: validation[f] for f in held if f in validation}
        found |= of_decider if name == decides else {}
        return found | (own(name) if own else {})

    found = all_fitted(agreed, topology, given, folder, kills)
    checked(found)
    return found


def ones(client):
    return np.ones(COUNTS[client], np.float32)


def round_of(number, labels="server"):
    """The round that an epoch over the network is."""
    _, train, _ = problem(labels)
    fields = {f: np.concatenate([train[c][f] for c in COUNTS]) for f in train["north"]}
    first = dict(zip(COUNTS, np.cumsum([0, *COUNTS.values()]), strict=False))
    most = max(n for _, n in ORDER)
    reads = np.zeros((len(ORDER), most, BATCH), np.int32)
    for turn, (client, steps) in enumerate(ORDER):
        for i in range(steps):
            at = places_of(number * steps + i, COUNTS[client], BATCH, SEED)
            reads[turn, i] = first[client] + at
    return Round(
        fields,
        reads,
        np.ones(reads.shape, np.float32),
        np.arange(len(ORDER), dtype=np.int32),
        np.array([n for _, n in ORDER], np.int32),
        np.ones(len(ORDER), np.float32),
        len(COUNTS),
        tuple(COUNTS),
    )


def measured_once(fields):
    """A round in which one client measures each record, as many at a time as in a step."""
    drawn = jsplit.population.everyone(VALIDATED, len(COUNTS)).round(
        fields, 0, batch=BATCH
    )
    return drawn._replace(
        names=tuple(COUNTS),
        **{
            part: getattr(drawn, part)[:1]
            for part in ("reads", "weight", "client", "steps", "share")
        },
    )


def by_rounds(labels="server", handoff="peer", **compared):
    """The training as rounds of one process."""
    topology, _, validation = problem(labels)
    trainer = jsplit.messages(topology, optax.adam(0.01))
    return jsplit.fit(
        jsplit.rounds.take_turns(trainer, "client", handoff=handoff),
        lambda number: round_of(number, labels),
        epochs=EPOCHS,
        key=SEED,
        validation=None if handoff == "none" else measured_once(validation),
        **compared,
    )


def as_steps(number, labels="server"):
    """The batches of such a round, one after the other."""
    drawn = round_of(number, labels)
    for turn, steps in enumerate(drawn.steps):
        for rows in drawn.reads[turn][:steps]:
            yield {f: x[rows] for f, x in drawn.fields.items()}, drawn.weight[turn, 0]


def by_steps(labels="server", optimizer=None, **given):
    """The training of the one model on the same batches."""
    topology, _, validation = problem(labels)
    parts = [{f: x[i : i + BATCH] for f, x in validation.items()} for i in (0, 4, 8)]
    return jsplit.fit(
        jsplit.messages(topology, optimizer or optax.adam(0.01)),
        lambda number: as_steps(number, labels),
        epochs=EPOCHS,
        key=SEED,
        validation=parts,
        **given,
    )


def evaluated_by_south(agreed, folder, labels):
    """What a client and the server measure with the best state."""
    topology, _, validation = problem(labels)
    alone, transport = agreed.of("south"), party.MemoryTransport()

    def one(name):
        held = topology.holds.get("server" if name == "server" else "client", ())
        own = {f: validation[f] for f in held}
        return party.evaluate(
            alone,
            name,
            topology,
            {"south": own} if name == "server" and own else own,
            records=VALIDATED,
            credentials=party.PlaintextWithoutIdentity(name),
            checkpoint=folder / name / "best",
            ids_key=bytes(32),
            transport=transport,
        )

    return checked(together(alone.parties, one))


def rows_of(fit):
    return [dict(row) for row in fit.history.rows]


def part_of(name, state):
    return state.parties["server" if name == "server" else "client"]


def learned(state):
    """All but the number of the step, which may count rounds."""
    return bits(state._replace(step=state.step * 0))


def close(rows, others):
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name, x in row.items():
            np.testing.assert_allclose(x, other[name], rtol=2e-6)


def test_it_is_the_rounds_of_one_process_and_all_have_the_best():
    # The loss falls, so by its maximum the first epoch is the best: another one than the
    # last, after which all must have what the last client had learned.
    most = {"monitor": "val_loss", "mode": "max", "patience": 1}
    # No record of four numbers between -1 and 1 is larger, in training and validation.
    found = fitted(agreed_with(tells="val_loss"), bound={"h": 2.0}, **most)
    rounds, steps = by_rounds(**most), by_steps(**most)
    assert rows_of(found["server"]) == rows_of(steps)
    # A round adds up in 32 bits.
    close(rows_of(found["server"]), rows_of(rounds))
    told = [{"val_loss": row["val_loss"]} for row in rows_of(steps)]
    reasons = {"server": "patience", "north": "verdict", "south": "verdict"}
    for name, fit in found.items():
        assert (fit.history.best, len(fit.history)) == (0, 2)
        assert fit.history.stopped == reasons[name]
        assert int(fit.state.step) == fit.history.steps == 2 * STEPS
        for kept in ("state", "best"):
            mine = getattr(fit, kept)
            assert bits(mine) == bits(part_of(name, getattr(steps, kept)))
            assert learned(mine) == learned(part_of(name, getattr(rounds, kept)))
    assert rows_of(found["north"]) == rows_of(found["south"]) == told


@pytest.mark.slow
def test_of_a_u_the_client_decides_whose_turn_ends_an_epoch():
    agreed = agreed_with("client", "server")
    assert agreed.epochs is not None and agreed.epochs.decides == "client"
    found, steps = fitted(agreed, "client"), by_steps("client")
    for row, whole in zip(rows_of(found["south"]), rows_of(steps), strict=True):
        assert all(row[n] == whole[n] for n in ("val_loss", "val_mae"))
        # Of the steps of others it knows no loss.
        assert row["loss"] != whole["loss"]
    assert [{*row} for row in rows_of(found["north"])] == [{"loss"}] * EPOCHS
    assert rows_of(found["server"]) == [{}] * EPOCHS
    for name, fit in found.items():
        assert fit.history.best == steps.history.best
        assert bits(fit.state) == bits(part_of(name, steps.state))
        assert bits(fit.best) == bits(part_of(name, steps.best))


@pytest.mark.slow
def test_where_nothing_is_handed_over_each_client_keeps_its_own():
    found, rounds = fitted(agreed_with(handoff="none")), by_rounds(handoff="none")
    close(rows_of(found["server"]), rows_of(rounds))
    assert learned(found["server"].state) == learned(rounds.state.parties["server"])
    of_all = rounds.state.parties["client"].params
    for number, name in enumerate(COUNTS):
        own = jax.tree.map(lambda x, n=number: x[n], of_all)
        assert bits(found[name].state.params) == bits(own)


@pytest.mark.slow
def test_rates_are_set_by_epoch_at_whoever_has_its_turn():
    rates = {"learning_rate": lambda epoch: 0.02 / (1 + epoch)}
    adam = optax.inject_hyperparams(optax.adam)(0.01)
    own = lambda name: {"hyperparams": rates, "optimizer": adam}  # noqa: E731
    found = fitted(agreed_with(), own=own)
    steps = by_steps(optimizer=adam, hyperparams=rates)
    assert rows_of(found["server"]) == rows_of(steps)
    for name, fit in found.items():
        assert bits(fit.state) == bits(part_of(name, steps.state))


@pytest.mark.slow
def test_each_trains_its_turns_with_its_own_rates_and_not_those_that_were_handed_over():
    adam = optax.inject_hyperparams(optax.adam)(0.01)
    tenth = {"north": 10, "south": 1, "server": 5}

    def own(name):
        rates = {"learning_rate": lambda epoch: (epoch + 1) / tenth[name] / 100}
        return {"hyperparams": rates, "optimizer": adam}

    # What is handed over crosses once, however many micro-batches a step has.
    found = fitted(agreed_with(microbatches=2), own=own)
    for name, fit in found.items():
        rate = fit.state.optimizer.hyperparams["learning_rate"]
        # After the last epoch every client has what the last one of them had.
        last = tenth["server" if name == "server" else "south"]
        np.testing.assert_allclose(rate, EPOCHS / last / 100, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_whoever_is_killed_it_goes_on_to_the_bit(tmp_path, labels):
    kills = {
        "north": [1, "epoch 0", 6],
        "south": [4, "epoch 1", 13],
        "server": [5, "epoch 2"],
    }
    found = fitted(agreed_with(labels), labels, tmp_path, kills)
    steps, decides = by_steps(labels), "server" if labels == "server" else "south"
    for row, whole in zip(rows_of(found[decides]), rows_of(steps), strict=True):
        assert row["val_loss"] == whole["val_loss"]
    for name, fit in found.items():
        assert fit.history.steps == EPOCHS * STEPS
        assert bits(fit.state) == bits(part_of(name, steps.state))
        assert bits(fit.best) == bits(part_of(name, steps.best))
    # The best is a folder of checkpoints, of which one client and the server measure.
    evaluated = evaluated_by_south(agreed_with(labels), tmp_path, labels)
    best = rows_of(found[decides])[steps.history.best]
    assert evaluated[decides].metrics["mae"] == best["val_mae"]
    # Called again it gives the same, and nobody trains.
    again = fitted(agreed_with(labels), labels, tmp_path)
    assert bits(again["north"].best) == bits(found["north"].best)
    with pytest.raises(ValueError, match="another `data`"):
        topology, train, _ = problem(labels)
        data = {f: x + 1 for f, x in train["north"].items()} | {"counts": ones("north")}
        party.fit(
            agreed_with(labels),
            "north",
            topology,
            data,
            credentials=party.PlaintextWithoutIdentity("north"),
            optimizer=optax.adam(0.01),
            ids_key=bytes(32),
            folder=tmp_path / "north",
        )


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"epochs": {"records": 20}}, "`records` of `epochs`.*once round"),
        ({"turns": {"missing": "skip"}}, '`missing="wait"` of `turns` alone'),
        ({"turns": {"handoff": "none"}}, '`validation`.*`handoff="none"`'),
        ({"turns": {"order": [("north",)]}}, "`order` must hold clients"),
        ({"epochs": {"decides": "north"}}, "one of server"),
        ({"checkpoint": 3}, "does not divide"),
    ],
)
def test_turns_by_which_an_epoch_is_none_are_refused(change, wrong):
    topology, train, _ = problem()
    clients = {name: {"client": name} for name in COUNTS}
    turns = {"order": ORDER} | change.get("turns", {})
    with pytest.raises(ValueError, match=wrong):
        party.agreement(
            topology,
            {f: x[:BATCH] for f, x in train["north"].items()},
            addresses={"server": "127.0.0.1:9"},
            checkpoint=change.get("checkpoint", 1),
            turns=party.turns(clients, **turns),
            epochs=party.epochs(EPOCHS, validation=9, **change.get("epochs", {})),
        )


def test_an_epoch_is_once_round_the_order():
    agreed = agreed_with()
    assert agreed.epochs is not None
    assert (agreed.epochs.steps, agreed.steps) == (STEPS, EPOCHS * STEPS)
    said = {**agreed["epochs"], "steps": STEPS * EPOCHS}
    with pytest.raises(ValueError, match="an epoch is once round"):
        agreed.replace(epochs=said)
    # One client's agreement is that of an evaluation, which has none.
    assert agreed.of("north").epochs is None
    assert agreed.of("north").schema == agreed.schema


def test_the_client_that_validates_has_the_twins_and_all_others_hear_the_verdict():
    agreed = agreed_with("client")
    local = Local(agreed, "server", problem("client")[0], optax.adam(0.01))
    frames = EpochFrames(agreed, local, agreed.epochs)
    wires, training = len(local.wires), agreed.turns.crossings(local.wires)
    found = frames.crossings(training)
    assert found[: len(training)] == training
    twins = [frames.validating(wire) for wire in range(2 * wires)]
    assert [frames.wire(place) for place in twins] == [*range(wires)] * 2
    assert not any(frames.wire(at) in range(wires) for at in range(len(training)))
    names = [
        {agreed.parties[p] for p in (*found[at].senders, found[at].receiver)}
        for at in twins
    ]
    assert names == [{"south", "server"}] * 2 * wires
    verdicts = {found[frames.verdict(p)].receiver for p in ("north", "server")}
    assert verdicts == {agreed.parties.index(p) for p in ("north", "server")}
    counts = dict(zip(found, frames.counts(training, 2), strict=True))
    assert [n for c, n in counts.items() if c.kind == "weights"] == [1, 1]
    # Who has no part in it hears the last word alone; others one for each batch.
    assert [n for c, n in counts.items() if c.kind == "verdict"] == [1, 3]
    # In a validation nothing comes back, and numbers that add up cross once in a step.
    twin = {found[at].kind: frames.counts(training, 2)[at] for at in twins}
    assert twin == {"activation": 3, "cotangent": 0}
    scalar = Crossing("scalar", "norm", (0,), 1)
    assert frames.counts([*training, scalar], 2)[len(training)] == 1


def test_no_client_bears_the_name_under_which_records_of_validation_are_compared():
    topology, train, _ = problem()
    with pytest.raises(ValueError, match="must not name one `validation`"):
        party.agreement(
            topology,
            {f: x[:BATCH] for f, x in train["north"].items()},
            addresses={"server": "127.0.0.1:9"},
            turns=party.turns({"validation": {"client": "a"}}, [("validation", 2)]),
            epochs=party.epochs(EPOCHS),
        )


@pytest.mark.parametrize(
    ("name", "given", "wrong"),
    [
        ("north", {"validation": {"x": np.ones((9, 3))}}, "given by `north`.*`south`"),
        ("south", {"validation": None}, "`validation` must have x"),
        ("south", {"patience": 2}, "`patience` is for `server`"),
        ("north", {"class_weight": "balanced"}, "of one client's classes"),
        ("server", {"validation": {"label": np.ones((4, 1))}}, "4 records.*says 9"),
    ],
)
def test_what_does_not_fit_is_refused_before_anybody_is_connected(name, given, wrong):
    topology, train, validation = problem()
    held = topology.holds["server" if name == "server" else "client"]
    mine = {c: {f: x[f] for f in held} | {"counts": ones(c)} for c, x in train.items()}
    usual = {"data": mine if name == "server" else mine[name]}
    if name != "north":
        usual["validation"] = {f: np.float32(validation[f]) for f in held}
    given = {n: x and _in_32_bits(x) for n, x in given.items()}
    with pytest.raises(ValueError, match=wrong):
        party.fit(
            agreed_with(),
            name,
            topology,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optax.adam(0.01),
            ids_key=bytes(32),
            **(usual | given),
        )


def _in_32_bits(x):
    return {f: np.float32(v) for f, v in x.items()} if isinstance(x, dict) else x
