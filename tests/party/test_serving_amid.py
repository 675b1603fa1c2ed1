"""Sessions side by side while some end, are lost, or hold what is no number."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from jsplit.party.serving.calls import Calls
from jsplit.party.serving.server import Server
from jsplit.party.serving.together import Together
from jsplit.wire.errors import Refused
from tests.party.federation import LONG
from tests.party.test_serving_together import (
    LENGTH,
    TOKENS,
    alone,
    at_once,
    come,
    courses,
    in_one_run,
    pieces_of,
    serving,
)

PROMPT = {"tokens": TOKENS[:1, :2]}
OVER = "the session is over; begin another one"


@pytest.mark.parametrize("bad", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_no_number_in_one_session_changes_no_bit_of_another(bad):
    """In the run itself and in the next; where it is computed it is refused."""
    others, by_value = [i for i in range(3) if i != bad], {}
    for value in (0.0, np.nan):
        made, together, found = courses(), Together(8, 8), []
        for row, course in enumerate(made):
            come(course, row)
        made[bad]._inbox[0] = [made[bad]._inbox[0][0] + np.float32(value)]
        results = together.run(made)
        assert results is not None
        for i in others:
            made[i].computed(results[i], lambda place, x, found=found: found.extend(x))
        if np.isnan(value):
            with pytest.raises(ValueError, match="`y` is not finite where it is"):
                made[bad].computed(results[bad], lambda place, arrays: None)
        by_value[value] = found + in_one_run(
            together, [made[i] for i in others], others
        )
    wanted, found = by_value.values()
    assert len(found) == 4
    np.testing.assert_array_equal(found, wanted)


def asked_and_counted(sessions, pieces, between):
    """What sessions give, with something done in between when all are amid a text."""
    half = len(pieces) // 2
    gate = threading.Barrier(len(sessions), action=between)

    def work(session, i):
        found, at = [], 0
        for number, count in enumerate(pieces):
            if number == half:
                gate.wait(LONG)
            found.append(session({"tokens": TOKENS[i : i + 1, at : at + count]}))
            at += count
        return np.concatenate(found, 1)

    found = at_once(sessions, work)
    for i, got in enumerate(found):
        np.testing.assert_allclose(got, alone(i, pieces), rtol=1e-6, atol=1e-6)
    return [s.begun for s in sessions]


@pytest.mark.slow
def test_a_server_that_is_started_again_amid_a_batch_changes_no_answer():
    with serving(batch_wait=0.05) as server, server.ask(length=LENGTH) as first:

        def again():
            server.kill("server")
            server.start("server")

        sessions = [first, first.another(), first.another()]
        begun = asked_and_counted(sessions, (2, 1, 1, 1, 1, 1), again)
    assert begun == [2, 2, 2]


@pytest.mark.slow
def test_a_connection_that_is_lost_amid_a_batch_costs_no_session_of_another():
    with (
        serving(batch_wait=0.05) as server,
        server.ask(length=LENGTH) as first,
        server.ask(length=LENGTH) as second,
    ):
        first(PROMPT)
        second(PROMPT)
        lost = server.hub.ends[-1][2]

        def cut():
            for pipe in (lost.outward, lost.inward):
                pipe.abandon("cut")

        sessions = [first.another(), second.another(), first.another()]
        begun = asked_and_counted(sessions, (2, 1, 1, 1), cut)
    assert begun == [1, 2, 1]


def test_of_more_sessions_than_there_is_room_for_all_others_go_on():
    """Six where five may be: one is told to come again, and nobody waits for it."""
    with serving(sessions=5, together=4) as server, server.ask(length=LENGTH) as first:
        gate = threading.Barrier(6)

        def work(session, i):
            try:
                found = [session({"tokens": TOKENS[i : i + 1, :2]})]
            except Refused as error:
                gate.wait(LONG)
                return error
            gate.wait(LONG)
            found.append(session({"tokens": TOKENS[i : i + 1, 2:3]}))
            return np.concatenate(found, 1)

        found = at_once([first, *(first.another() for _ in range(5))], work)
    [refused] = [x for x in found if isinstance(x, Refused)]
    assert refused.again and "has 5 sessions, and no more" in str(refused)
    for i, got in enumerate(found):
        if got is not refused:
            wanted = alone(i, (2, 1))
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_sessions_of_other_batches_lengths_and_prompts_are_each_as_alone():
    with serving(batch_wait=0.05) as server, server.ask(length=LENGTH) as first:
        sessions = [first, first.another(), first.another(length=9)]
        sessions += [first.another(length=9), first.another(batch=2)]
        pieces = [(2, 1, 1), (3, 1, 1), (2, 1, 1), (4, 1, 1), (2, 1, 1)]

        def work(session, i):
            if session.batch == 1:
                return pieces_of(session, i, pieces[i])
            two, at = [], (0, 2, 3, 4)
            for k in range(3):
                two.append(session({"tokens": TOKENS[[i, 0], at[k] : at[k + 1]]}))
            return np.concatenate(two, 1)

        found = at_once(sessions, work)
    for i, got in enumerate(found):
        np.testing.assert_allclose(got[:1], alone(i, pieces[i]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[4][1:], alone(0, pieces[0]), rtol=1e-6, atol=1e-6)


def test_all_sessions_end_with_the_one_that_has_the_connections():
    """None dials again, which would be a connection that nobody ends."""
    with serving() as server, server.ask(length=LENGTH) as first:
        other = first.another()
        other(PROMPT)
        dialled = len(server.hub.ends)
        first.close()
        first.close()
        for ask in (lambda: other(PROMPT), first.another, other.another):
            with pytest.raises(ValueError, match=OVER):
                ask()
        other.close()
        assert len(server.hub.ends) == dialled and other.begun == 1


@pytest.mark.parametrize("own", [True, False], ids=["its own end", "that of all"])
@pytest.mark.parametrize(
    "where, what",
    [(Calls, "post"), (Server, "_open")],
    ids=["for an answer", "to begin"],
)
def test_a_call_that_waits_ends_with_its_session(where, what, own, monkeypatch):
    """And not when its patience is over; `close` waits for nobody either."""
    gate, there, real = threading.Event(), threading.Event(), getattr(where, what)

    def late(self, *given):
        there.set()
        gate.wait(LONG)
        real(self, *given)

    with serving() as server, server.ask(length=LENGTH) as first:
        session = first.another() if own else first
        monkeypatch.setattr(where, what, late)
        failed = []

        def work(session):
            with pytest.raises(ValueError, match=OVER) as caught:
                session(PROMPT)
            failed.append(caught.value)

        asked = session if own else first.another()
        asking = threading.Thread(target=work, args=(asked,))
        asking.start()
        assert there.wait(LONG)
        begun = time.monotonic()
        session.close()
        asking.join(LONG)
        took = time.monotonic() - begun
        gate.set()
        assert failed and took < LONG / 4
        if own:
            assert first(PROMPT).shape[1] == 2
