"""Serving among enemies: whoever knows a session's number, loses it, or answers late."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.serving import calls, server, words
from jsplit.party.serving.ahead import Ahead
from jsplit.party.serving.lanes import SessionLost
from jsplit.party.serving.outward import Outward
from jsplit.party.serving.words import IDS, said_of
from jsplit.wire.pipe import Closed
from tests.party.federation import LONG
from tests.party.serving import LM_BATCH, TOKENS, Serving
from tests.party.test_serving import changed, lm, sums


def noisy():
    def encode(value, key):
        return value + 0.3 * jax.random.normal(key, value.shape)

    return jsplit.stateless(encode, lambda payload, like: payload, secret=True)


jsplit.compress.register("noisy_while_serving", noisy, replace=True)


@pytest.mark.parametrize("kind", ["hello", IDS, "bye"])
def test_who_knows_the_number_of_another_session_ends_nothing_by_it(kind):
    """Another process of the same party: a certificate is not what tells them apart."""
    serving, _ = lm()
    with serving, serving.ask(batch=2, length=20) as session:
        session({"tokens": TOKENS})
        with serving.ask(batch=2, length=20) as enemy:
            enemy({"tokens": TOKENS})
            told = {
                "hello": {"agreed": said_of(enemy._asking.agreed), "batch": 1},
                IDS: {"ids": ["p1"]},
            }.get(kind, {})
            frame = enemy._asking.words.text(
                kind, "server", session._number, told, call=9
            )
            enemy._asking._lines["server"].put(frame)
            enemy({"tokens": TOKENS[:, :1]})
            session({"tokens": TOKENS[:, :1]})
        assert session.begun == 1


def test_who_loses_a_session_is_not_sent_other_noise_with_the_same_values(monkeypatch):
    """The mean of what it is sent again would have less noise than was measured."""
    came, real = [], server.Server._value

    def hear(self, line, frame):
        came.append((frame.head.step, np.array(frame.arrays[0])))
        if len(came) in (3, 6):
            raise server.SessionLost("it is lost")
        real(self, line, frame)

    monkeypatch.setattr(server.Server, "_value", hear)
    topology = sums()[0]
    links = {"h": "noisy_while_serving()"}
    trainer = jsplit.messages(topology, optax.sgd(0.1), links={"h": noisy()})
    state = trainer.init(0, LM_BATCH)
    agreed = party.agreement(
        topology, LM_BATCH, steps=4, addresses={"server": "server:1"}, links=links
    )
    serving = Serving(agreed, topology, state.parties, names=["server"])
    with serving, serving.ask(batch=2, length=20) as session:
        for _ in range(3):
            session({"tokens": TOKENS[:, :2]})
        assert session.begun == 3
    by_call = [[x for step, x in came if step == call] for call in range(3)]
    assert [*map(len, by_call)] == [3, 3, 3]
    for found in by_call:
        np.testing.assert_allclose(found[1:], found[:-1], atol=1e-5)
    assert np.abs(by_call[0][0] - by_call[1][0]).max() > 0.1


def test_an_answer_that_nobody_waits_for_costs_other_sessions_nothing(monkeypatch):
    """A large one, as logits of many tokens are."""
    monkeypatch.setattr(words, "UNKNOWN", 8)
    gate, real = threading.Event(), calls.Calls.post
    serving, _ = lm()
    with serving, serving.ask(batch=2, length=20) as session:
        session({"tokens": TOKENS})

        def late(self, *given):
            gate.wait(LONG)
            real(self, *given)

        monkeypatch.setattr(calls.Calls, "post", late)
        asking, until = session._asking, time.monotonic() + LONG
        other = session.another()
        other._begin(until)
        assert other._under is not None
        course = other._under.course
        course.start(3, {"tokens": TOKENS})

        def post(place, arrays):
            frame = asking.words.value("server", other._number, place, 0, 3, arrays)
            asking.send("server", frame)

        assert not course.advance(post)
        other.close()
        gate.set()
        session({"tokens": TOKENS[:, :1]})
        assert session.begun == 1


def test_models_that_never_answered_are_not_those_of_before():
    serving, _ = lm()
    serving.states["server"] = changed(sums()[1], step=2)
    with serving, serving.ask(batch=2, length=20) as session:
        with pytest.raises(party.Refused, match="steps: `client` 0, `server` 2"):
            session({"tokens": TOKENS})
        serving.kill("server")
        serving.states["server"] = sums()[1].parties["server"]
        serving.start("server")
        assert session({"tokens": TOKENS}).shape == (2, 3, 7)


@pytest.mark.parametrize(
    "said", [{}, {"step": "0", "hash": "x"}, {"step": 0, "hash": 5}]
)
def test_a_server_that_does_not_say_which_model_it_has_is_refused(said, monkeypatch):
    monkeypatch.setattr(server, "answer_of", lambda *_: said)
    serving, _ = lm()
    with serving, serving.ask(batch=2, length=20) as session:
        with pytest.raises(party.Refused, match="`server` does not say which model"):
            session({"tokens": TOKENS})


def test_what_a_peer_sends_ahead_waits_with_it():
    """Else one that repeats a large value fills the memory of who computes."""
    frame = party_frame(60)
    ahead, entered, over = Ahead(100), [], threading.Event()
    assert ahead.enter(frame, over.is_set)

    def second():
        entered.append(ahead.enter(frame, over.is_set))

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    thread.join(0.1)
    assert not entered
    ahead.leave(frame)
    thread.join(LONG)
    assert entered == [True]
    over.set()
    assert not ahead.enter(frame, over.is_set)


def party_frame(size):
    head = words.Words(sums_agreed(), "client").head("activation", "server", 1, 0)
    return words.frame_of(head, [np.zeros(size, np.uint8)])


def sums_agreed():
    return party.agreement(
        sums()[0], LM_BATCH, steps=4, addresses={"server": "server:1"}
    )


def test_a_server_that_does_not_read_costs_the_session_that_needs_it_and_no_other():
    """Of a connection that is over who asks was let go of in silence, with all its sessions."""

    class Unread:
        over = None

        def put(self, frame):
            raise Closed("`next` does not read.")

    serving, _ = lm()
    own = words.Words(serving.agreed, "server")
    outward = Outward(None, own, None)
    outward.lines["client"] = Unread()
    with pytest.raises(SessionLost, match="`server` cannot send to `client`.*not read"):
        outward.send("client", own.text("bye", "client", 1, {}))
