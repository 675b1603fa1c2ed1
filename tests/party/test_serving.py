"""Serving over a network: what one process computes, for whoever asks, in its own order."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.serving import remote, server
from jsplit.party.serving.table import Table
from jsplit.wire.rpc import Grpc
from tests import decoders
from tests.party.federation import LONG, free_port, layer, trust_of
from tests.party.serving import (
    LM_BATCH,
    TOKENS,
    Hub,
    Serving,
    summing,
    wanted,
)
from tests.training.test_session_kinds import masked

RNG = np.random.default_rng(0)
X, Z = (RNG.normal(size=(11, 3)).astype(np.float32) for _ in range(2))
LABEL = RNG.normal(size=(11, 1)).astype(np.float32)


def squares(y, label):
    return (y - label) ** 2


def topologies():
    two = {"client": layer(["x"], "left"), "other": layer(["z"], "right")}
    top = layer(["left", "right"], "y", 1)
    return {
        "vanilla": jsplit.vanilla(
            layer(["x"], "h"), layer(["h"], "y", 1), loss=squares
        ),
        "u_shaped": jsplit.u_shaped(
            layer(["x"], "h"), layer(["h"], "b"), layer(["b"], "y", 1), loss=squares
        ),
        "vertical": jsplit.vertical(two, top, loss=squares),
        "extended_vanilla": jsplit.extended_vanilla(
            two,
            layer(["left", "right"], "m"),
            layer(["m"], "y", 1),
            loss=squares,
        ),
        "multitask": jsplit.multitask(
            two,
            {
                "one": layer(["left", "right"], "y", 1),
                "two": layer(["left", "right"], "v", 1),
            },
            losses={"one": squares, "two": squares},
        ),
        "multihop": jsplit.multihop(
            {
                "client": layer(["x"], "a"),
                "two": layer(["a"], "b"),
                "three": layer(["b"], "y", 1),
            },
            loss=squares,
        ),
    }


def of(topology, batch, state=None, names=None, **options):
    """A topology with all but the client serving what it has at its start."""
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(3, batch) if state is None else state
    others = [p for p in topology.parties if p != "client"]
    names = others if names is None else names
    agreed = party.agreement(
        topology, batch, steps=4, addresses={p: f"{p}:1" for p in others}
    )
    serving = Serving(agreed, topology, state.parties, names=names, **options)
    return serving, trainer, state


@pytest.mark.parametrize("configuration", [*topologies()])
def test_records_are_answered_to_who_asks_in_its_order(configuration):
    topology = topologies()[configuration]
    fields = {"x": X, "z": Z, "label": LABEL}
    labels = {f: LABEL for f in topology.fields if f not in fields}
    batch = {f: (fields | labels)[f][:4] for f in topology.fields}
    looked_up = {"data": {"z": Z}, "ids": [f"p{i}" for i in range(11)]}
    serving, trainer, state = of(topology, batch, other=looked_up)
    order = np.array([7, 2, 10, 0, 5, 1])
    inputs = {f: fields[f][order] for f in ("x", "z") if f in topology.fields}
    expected = trainer.predict(state, inputs)
    ids = [f"p{i}" for i in order] if "z" in inputs else None
    with serving, serving.ask() as session:
        got = session({"x": X[order]}, ids)
    got = got if isinstance(got, dict) else {next(iter(expected)): got}
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-6)


def test_records_that_another_party_does_not_have_are_refused_without_a_name():
    topology = topologies()["vertical"]
    batch = {"x": X[:4], "z": Z[:4], "label": LABEL[:4]}
    looked_up = {"data": {"z": Z}, "ids": [f"p{i}" for i in range(11)]}
    serving, _, _ = of(topology, batch, other=looked_up)
    with serving, serving.ask() as session:
        with pytest.raises(party.Refused, match="1 of the records are not") as caught:
            session({"x": X[:2]}, ["p1", "secret"])
        assert "secret" not in str(caught.value)
        with pytest.raises(ValueError, match="`ids` must be given: `other` has fields"):
            session({"x": X[:2]})


@cache
def sums():
    """The summing model: its topology, first state and weights."""
    topology = summing()
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(0, LM_BATCH)
    return topology, state, np.asarray(state.parties["server"].params["logits"])


def lm(**limits):
    topology, state, weights = sums()
    serving, _, _ = of(topology, LM_BATCH, state, server=limits)
    return serving, weights


def test_a_server_that_is_away_is_told_of_once_however_often_it_is_tried(
    monkeypatch, caplog
):
    tried, real = [], remote.RemoteSession._begin
    monkeypatch.setattr(remote, "FIRST", 0.001)
    monkeypatch.setattr(remote, "SLOWEST", 0.001)
    serving, _ = lm()

    def begin(self, until):
        tried.append(until)
        if len(tried) == 9:
            serving.start("server")
        real(self, until)

    with serving, serving.ask(batch=2, length=20) as session:
        session({"tokens": TOKENS})
        serving.kill("server")
        tried.clear()
        monkeypatch.setattr(remote.RemoteSession, "_begin", begin)
        with caplog.at_level("INFO", "jsplit.party"):
            session({"tokens": TOKENS[:, :1]})
    assert len(tried) >= 9
    waits, begun = (
        [m for m in caplog.messages if words in m]
        for words in ("waits for up to", "has begun its session again")
    )
    # One when it is lost, one when nobody is there; the reason may be the same.
    assert 1 <= len(waits) <= 2 and len(begun) == 1, caplog.messages


def test_a_killed_server_is_made_good_by_replay():
    serving, weights = lm()
    with serving, serving.ask(batch=2, length=20) as session:
        first = jsplit.generate(session, TOKENS, 3)
        serving.kill("server")
        serving.start("server")
        last = jsplit.generate(session, first[:, -1:], 4)
        assert session.begun == 2 and session.position == 9
    both = np.concatenate([first, last], 1)
    expected = wanted(weights, TOKENS, 7)
    np.testing.assert_array_equal(both, expected)
    # What was before the kill matters for what comes after it.
    assert (wanted(weights, expected[:, 2:3], 4) != expected[:, 3:]).any()


@pytest.mark.parametrize("configuration", ["u_shaped", "chain"])
@pytest.mark.slow
def test_tokens_are_those_of_the_whole_model_though_a_server_is_killed(configuration):
    """Flax's own attention at each party; of a chain the one in the middle."""
    parts = decoders.nnx_parts()
    topology = decoders.topology_of(parts, configuration)
    serving, _, state = of(topology, decoders.BATCH)
    prompt = decoders.BATCH["tokens"][:, :4]
    with serving, serving.ask(batch=2, length=decoders.LENGTH) as session:
        first = jsplit.generate(session, prompt, 2)
        victim = "server" if configuration == "u_shaped" else "two"
        serving.kill(victim)
        serving.start(victim)
        last = jsplit.generate(session, first[:, -1:], 3)
    both = np.concatenate([first, last], 1)
    expected = decoders.generated(parts.whole(state), prompt, 5)
    np.testing.assert_array_equal(both, expected)


def test_sessions_at_once_are_each_as_alone():
    serving, weights = lm()
    prompts = [(TOKENS[:1] + i) % 7 for i in range(3)]
    found = {}
    with serving, serving.ask(batch=1, length=20) as session:
        others = [session, session.another(), session.another()]

        def work(i):
            found[i] = jsplit.generate(others[i], prompts[i], 6)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    for i, prompt in enumerate(prompts):
        np.testing.assert_array_equal(found[i], wanted(weights, prompt, 6))


def test_over_grpc_with_certificates():
    topology, state, weights = sums()
    trust = trust_of(("client", "server"))
    agreed = party.agreement(
        topology, LM_BATCH, steps=4, addresses={"server": f"localhost:{free_port()}"}
    )
    serving = Serving(
        agreed, topology, state.parties, Grpc(), trust.__getitem__, names=["server"]
    )
    with serving, serving.ask(batch=2, length=20) as session:
        first = jsplit.generate(session, TOKENS, 2)
        serving.end("server")
        serving.start("server")
        last = jsplit.generate(session, first[:, -1:], 2)
    both = np.concatenate([first, last], 1)
    np.testing.assert_array_equal(both, wanted(weights, TOKENS, 4))


@pytest.mark.parametrize(
    ("limits", "asked", "why"),
    [
        ({"length": 10}, {}, 'says: "`length` of a session is at most 10 .* got 20; '),
        ({"batch": 1}, {}, "`batch` of a session is at most 1 at `server`"),
        ({}, {"length": None}, "label"),
    ],
)
def test_what_is_beyond_the_limits_of_a_server_is_refused(limits, asked, why):
    serving, _ = lm(**limits)
    if why == "label":
        # Of records a whole text is one, and needs no cache.
        with serving, serving.ask(**asked) as session:
            assert session({"tokens": TOKENS}).shape == (2, 3, 7)
        return
    with serving, serving.ask(**{"batch": 2, "length": 20, **asked}) as session:
        with pytest.raises(party.Refused, match=why):
            session({"tokens": TOKENS})


def test_one_session_too_many_is_refused_and_may_come_again():
    serving, weights = lm(sessions=1)
    with serving, serving.ask(batch=2, length=20) as session:
        session({"tokens": TOKENS})
        other = session.another()
        with pytest.raises(party.Refused, match="`server` has 1 sessions") as caught:
            other({"tokens": TOKENS})
        assert caught.value.again
        session.close()
        other = serving.ask(batch=2, length=20)
        assert jsplit.generate(other, TOKENS, 2).tolist() == (
            wanted(weights, TOKENS, 2).tolist()
        )


def test_an_idle_session_is_let_go_of_and_begun_again_unless_that_is_not_wanted(
    monkeypatch,
):
    now, tables = [0.0], []

    def table(most, idle):
        tables.append(Table(most, idle, clock=lambda: now[0]))
        return tables[-1]

    monkeypatch.setattr(server, "Table", table)
    serving, weights = lm(idle=600.0)
    with serving, serving.ask(batch=2, length=20) as session:
        strict = serving.ask(batch=2, length=20, replay=False)
        first = jsplit.generate(session, TOKENS, 2)
        strict({"tokens": TOKENS})
        assert len(tables[0]) == 2
        now[0] += 601.0
        end = time.monotonic() + LONG
        while len(tables[0]) and time.monotonic() < end:
            time.sleep(0.01)
        last = jsplit.generate(session, first[:, -1:], 2)
        assert session.begun == 2
        with pytest.raises(party.Refused, match="idle for 600 s and was let go of"):
            strict({"tokens": TOKENS})
        strict.close()
    both = np.concatenate([first, last], 1)
    np.testing.assert_array_equal(both, wanted(weights, TOKENS, 4))
    assert serving.served["server"].evicted == 2


def test_the_table_lets_go_of_the_idle_alone():
    now = [0.0]
    table = Table(2, 10.0, clock=lambda: now[0])
    for number in (1, 2):
        table.add(number, type("Any", (), {"used": now[0], "line": None})())
        now[0] += 6.0
    assert table.room() and table.get(1) is None and table.get(2) is not None
    assert "idle for 10 s" in table.why(1) and "no such session" in table.why(9)


def changed(state, by=1.0, step=0):
    own = state.parties["server"]
    params = {"logits": own.params["logits"] * by}
    return own._replace(params=params, step=own.step + step)


def test_another_model_in_the_middle_of_a_session_is_refused():
    serving, _ = lm()
    state = sums()[1]
    with serving, serving.ask(batch=2, length=20) as session:
        session({"tokens": TOKENS})
        assert session.model.step == 0 and len(session.model.hash) == 64
        serving.kill("server")
        serving.states["server"] = changed(state, 1.01)
        serving.start("server")
        with pytest.raises(
            party.Refused, match="`server` has another model than before"
        ):
            session({"tokens": TOKENS})


def test_models_of_different_steps_are_refused():
    serving, _ = lm()
    serving.states["server"] = changed(sums()[1], step=2)
    with serving, serving.ask(batch=2, length=20) as session:
        with pytest.raises(party.Refused, match="steps: `client` 0, `server` 2"):
            session({"tokens": TOKENS})


def test_an_answer_with_another_stamp_is_refused(monkeypatch):
    serving, _ = lm()
    real = server.stamp_of
    monkeypatch.setattr(
        "jsplit.party.serving.server.stamp_of", lambda model: real(model) ^ 1
    )
    with serving, serving.ask(batch=2, length=20) as session:
        with pytest.raises(party.Refused, match="is of another model than before"):
            session({"tokens": TOKENS})


def test_who_serves_or_asks_brings_no_loss():
    serving, weights = lm()
    h, logits = serving.topology.segments
    agreed, states, hub = serving.agreed, serving.states, serving.hub
    asker = Serving(agreed, {"h": h.segment}, states, hub)
    own = {"logits": logits.segment}
    server = Serving(agreed, own, states, hub, names=["server"])
    with server, asker.ask(batch=2, length=20) as session:
        got = jsplit.generate(session, TOKENS, 2)
    np.testing.assert_array_equal(got, wanted(weights, TOKENS, 2))


def test_another_agreement_is_refused_by_what_differs():
    serving, _ = lm()
    with serving:
        mine = serving.agreed
        serving.agreed = mine.replace(seed=5)
        with serving.ask(batch=2, length=20) as session:
            serving.agreed = mine
            with pytest.raises(party.Refused, match="`seed` is 0 at `server` and 5"):
                session({"tokens": TOKENS})


def test_only_those_that_may_ask_are_answered():
    serving, _, _ = of(topologies()["vanilla"], {"x": X[:4], "label": LABEL[:4]})
    with pytest.raises(ValueError, match="`server` holds no field that its segments"):
        serving.ask("server", addresses={"client": "client:1"})
    topology = topologies()["vertical"]
    batch = {"x": X[:4], "z": Z[:4], "label": LABEL[:4]}
    serving, _, _ = of(topology, batch, server={"askers": ["other"]}, names=["server"])
    with serving, serving.ask() as session:
        session._asking.servers = ["server"]
        with pytest.raises(party.Refused, match="`server` serves `other` alone"):
            session({"x": X[:2]}, ["p1", "p2"])


def test_a_server_that_loses_every_session_is_not_asked_for_ever(monkeypatch):
    serving, _ = lm()
    monkeypatch.setattr("jsplit.party.serving.server.Server._value", lambda *_: _lose())
    with serving, serving.ask(batch=2, length=20) as session:
        with pytest.raises(party.Refused, match="was begun 5 times and is lost each"):
            session({"tokens": TOKENS})


def _lose():
    raise server.SessionLost("it is lost")


def test_a_sequence_where_no_party_has_a_cache_is_refused():
    serving, _, _ = of(topologies()["vanilla"], {"x": X[:4], "label": LABEL[:4]})
    with serving, serving.ask(length=5) as session:
        with pytest.raises(party.Refused, match="no segment of any party has a cache"):
            session({"x": X[:1]})


def test_who_serves_must_be_dialled():
    topology, state, _ = sums()
    serving, _, _ = of(topology, LM_BATCH, state)
    bare = party.agreement(
        topology, LM_BATCH, steps=4, addresses={"client": "client:1"}
    )
    serving.agreed = bare
    with pytest.raises(ValueError, match="`server` has no address in the agreement"):
        serving.ask()


def test_several_hospitals_ask_in_the_role_that_they_played_in_turns():
    topology, state, weights = sums()
    names = ("north", "south")
    turns = party.turns({n: {"client": n} for n in names}, [(n, 1) for n in names])
    agreed = party.agreement(
        topology, LM_BATCH, steps=4, addresses={"server": "server:1"}, turns=turns
    )
    serving = Serving(agreed, topology, state.parties, names=["server"])
    with serving, serving.ask("north", length=20) as north:
        with serving.ask("south", length=20) as south:
            for session, prompt in ((north, TOKENS[:1]), (south, TOKENS[1:])):
                got = jsplit.generate(session, prompt, 3)
                np.testing.assert_array_equal(got, wanted(weights, prompt, 3))


def test_a_value_crosses_through_its_link_as_in_one_process():
    topology, state, _ = sums()
    links = {"h": "quantize(2)"}
    made = jsplit.compress.quantize(2)
    trainer = jsplit.messages(topology, optax.sgd(0.1), links={"h": made})
    state = trainer.init(0, LM_BATCH)
    agreed = party.agreement(
        topology, LM_BATCH, steps=4, addresses={"server": "server:1"}, links=links
    )
    serving = Serving(agreed, topology, state.parties, names=["server"])
    with serving, serving.ask(batch=2, length=20) as session:
        with jsplit.session(trainer, state, batch=2, length=20) as alone:
            for piece in (TOKENS, TOKENS[:, :1]):
                got, expected = (s({"tokens": piece}) for s in (session, alone))
                np.testing.assert_array_equal(got, expected)


def test_tokens_that_are_no_integers_are_refused_by_name_before_anything_is_sent():
    serving, _ = lm()
    with serving.ask(batch=2, length=20) as session:
        with pytest.raises(ValueError, match="^`tokens` must be integers, got float32"):
            session({"tokens": TOKENS.astype("float32")})


def test_a_step_is_that_of_a_checkpoint():
    serving, _ = lm()
    with pytest.raises(ValueError, match="`step` is of a `checkpoint`"):
        serving.ask(step=3)


@pytest.mark.parametrize(
    "kind",
    [pytest.param("error_feedback", marks=pytest.mark.slow), "temporal_differences"],
)
def test_what_a_link_remembers_of_training_is_no_part_of_a_session(kind):
    """What crosses is what the inner link makes of it, in every session and every call."""
    inner = jsplit.compress.quantize(4, stochastic=False)
    made = {
        "error_feedback": lambda: jsplit.compress.error_feedback(inner),
        "temporal_differences": lambda: jsplit.compress.temporal_differences(
            inner, rows="row", records=4
        ),
    }[kind]
    jsplit.compress.register("remembers_while_serving", made, replace=True)
    topology, _, _ = sums()
    held = {**topology.holds, "client": (*topology.holds["client"], "row")}
    topology = replace(topology, holds=held)
    batch = LM_BATCH | {"row": np.arange(2, dtype=np.int32)}
    trainer = jsplit.messages(topology, optax.sgd(0.1), links={"h": made()})
    # A step, so that both ends remember something.
    state, _ = trainer.step(trainer.init(0, batch), batch)
    plain = jsplit.messages(topology, optax.sgd(0.1), links={"h": inner})
    told = plain.init(0, batch)
    learned = {n: x.params for n, x in state.parties.items()}
    told = told._replace(
        parties={n: x._replace(params=learned[n]) for n, x in told.parties.items()}
    )
    agreed = party.agreement(
        topology,
        batch,
        steps=4,
        addresses={"server": "server:1"},
        links={"h": "remembers_while_serving()"},
    )
    pieces = [TOKENS, TOKENS[:, :1], TOKENS[:, 1:2]]
    with jsplit.session(plain, told, batch=2, length=20) as session:
        expected = [session({"tokens": x}) for x in pieces]
    with jsplit.session(trainer, state, batch=2, length=20) as session:
        for piece, wanted_of_it in zip(pieces, expected, strict=True):
            np.testing.assert_array_equal(session({"tokens": piece}), wanted_of_it)
    serving = Serving(agreed, topology, state.parties, names=["server"])
    with serving, serving.ask(batch=2, length=20) as session:
        other = session.another(batch=2, length=20)
        for piece, wanted_of_it in zip(pieces, expected, strict=True):
            for one in (session, other):
                got = one({"tokens": piece})
                np.testing.assert_allclose(got, wanted_of_it, atol=1e-5)


def test_a_mask_that_is_a_public_field_crosses_with_each_piece():
    topology, mask = masked(), (TOKENS > 0).astype(np.float32)
    given = {"tokens": TOKENS, "attention_mask": mask}
    batch = given | {"label": np.zeros((*TOKENS.shape, 3), np.float32)}
    serving, trainer, state = of(topology, batch)
    whole = trainer.predict(state, given)["y"]
    with serving, serving.ask(batch=2, length=9) as session:
        for at in (slice(2), slice(2, 3)):
            found = session({f: x[:, at] for f, x in given.items()})
            np.testing.assert_allclose(found, whole[:, at], atol=1e-5)


@pytest.mark.slow
def test_two_models_of_two_agreements_in_one_process_are_each_their_own():
    """By sessions in turn, of one size, whose servers share all that a process shares."""
    topology, hub, found = summing(), Hub(), {}
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    with ExitStack() as stack:
        sessions, weights = [], []
        for i in range(2):
            state = trainer.init(i, LM_BATCH)
            agreed = party.agreement(
                topology, LM_BATCH, steps=4 + i, addresses={"server": f"server:{1 + i}"}
            )
            serving = Serving(
                agreed, topology, state.parties, hub=hub, names=["server"]
            )
            stack.enter_context(serving)
            sessions.append(stack.enter_context(serving.ask(batch=2, length=20)))
            weights.append(np.asarray(state.parties["server"].params["logits"]))
        given = [TOKENS, TOKENS]
        for _ in range(2):
            for i, session in enumerate(sessions):
                new = jsplit.generate(session, given[i], 2)
                found.setdefault(i, []).append(new)
                given[i] = new[:, -1:]
    for i in range(2):
        got = np.concatenate(found[i], 1)
        np.testing.assert_array_equal(got, wanted(weights[i], TOKENS, 4))
    assert sessions[0].model.hash != sessions[1].model.hash
