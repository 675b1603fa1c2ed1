"""Patience is for who is away: who is at work is waited for, and not for ever."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from errno import ENOSPC
from io import FileIO

import pytest

from jsplit import party
from jsplit.party import folder
from jsplit.party.connection import vigil
from jsplit.party.connection.comebacks import Comebacks
from jsplit.party.connection.interrupts import Missing
from jsplit.party.connection.network import Network
from jsplit.party.connection.outbox import Outbox
from jsplit.party.connection.vigil import Vigil
from jsplit.wire.frames import Head, about, text_of
from jsplit.wire.signs import Sign
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    optimizers,
    own_of,
    small,
    together,
    train_in_memory,
    undisturbed,
)
from tests.party.test_party_network import SERVER, network_of

WORKS, WAITS = True, False


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(vigil.time, "monotonic", lambda: now[0])
    return now


def told(watch, clock, signs):
    """`(after seconds, epoch, step, works)` of one party, said one after the other."""
    for number, (after, epoch, step, works) in enumerate(signs):
        clock[0] += after
        watch.hear({1: Sign(number, epoch, step, works)}, 1)


def test_who_works_or_gets_on_is_waited_for(clock):
    watch = Vigil({1: None}, patience=20.0, stall=60.0)
    assert watch.pause == 5.0
    told(watch, clock, [(1, 1, 3, WAITS), (4, 1, 3, WORKS), (5, 1, 3, WORKS)])
    assert watch.quiet_since(101.0) == 110.0
    told(watch, clock, [(5, 1, 3, WAITS)])  # it waits: now nobody is at work
    assert watch.quiet_since(101.0) == 110.0
    told(watch, clock, [(5, 1, 4, WAITS)])  # but it has got on meanwhile
    assert watch.quiet_since(101.0) == 120.0
    assert watch.away_since(1) == 120.0 and not watch.standing()


def test_who_works_on_one_step_for_too_long_is_away_whatever_it_says(clock):
    watch = Vigil({1: None}, patience=20.0, stall=12.0)
    told(watch, clock, [(1, 1, 3, WAITS)] + [(5, 1, 3, WORKS)] * 6)
    assert watch.quiet_since(0.0) == 116.0  # the next one is beyond `stall`
    assert watch.away_since(1) == 121.0
    assert watch.standing() == {
        1: "is there and has been at step 4 for 25 s, which is longer than `stall`, 12 s"
    }
    # Neither an epoch that there is not, nor a step that it has had, is progress.
    told(watch, clock, [(5, 9, 3, WORKS), (5, 1, 2, WORKS)])
    assert watch.quiet_since(0.0) == 116.0
    told(watch, clock, [(5, 1, 4, WORKS)])
    assert watch.quiet_since(0.0) == clock[0] and not watch.standing()


@pytest.mark.parametrize("again", [0.5, 19.0])
def test_who_says_by_turns_that_it_works_and_waits_is_away_after_stall(clock, again):
    """Often, or just before patience ends: it is charged what it is waited for by that."""
    watch = Vigil({1: None}, patience=20.0, stall=60.0)
    watch.waits, watch.began, number = True, clock[0], 0
    while clock[0] - watch.quiet_since(100.0) <= 20.0:
        for after, computes in [(again / 2, WAITS), (again / 2, WORKS), (0.002, WAITS)]:
            clock[0] += after
            number += 1
            watch.hear({1: Sign(number, 1, 3, computes)}, 1)
        assert clock[0] < 100 + 60 + 4 * 20
    assert "longer than `stall`" in watch.standing()[1]


def test_who_works_now_and_then_beside_one_that_works_is_charged_its_own_time(clock):
    watch = Vigil({1: None, 2: None}, patience=20.0, stall=60.0)
    watch.waits, watch.began = True, clock[0]
    for number in range(55):
        clock[0] += 1
        computes = number % 10 == 5
        watch.hear({2: Sign(number, 1, 3, WORKS)}, 1)
        watch.hear({1: Sign(number, 1, 3, computes)}, 1)
    assert watch.seen[1].spent < 10 < watch.seen[2].spent


def test_steps_that_the_run_lets_nobody_take_yet_are_no_progress(clock):
    watch = Vigil({1: None}, patience=20.0, stall=60.0, ahead=4)
    watch.step = 3
    told(watch, clock, [(1, 1, 3, WAITS), (5, 1, 7, WAITS)])
    assert watch.quiet_since(0.0) == 106.0
    told(watch, clock, [(5, 1, step, WAITS) for step in range(8, 40)])
    assert watch.quiet_since(0.0) == 106.0
    watch.step = 4  # and what this party does lets it get on
    told(watch, clock, [(5, 1, 40, WAITS)])
    assert watch.quiet_since(0.0) == clock[0]


def test_a_sign_that_is_passed_on_again_is_no_sign(clock):
    watch = Vigil({1: None}, patience=20.0, stall=60.0)
    told(watch, clock, [(5, 1, 3, WORKS)])
    for _ in range(3):
        clock[0] += 5
        watch.hear({1: Sign(0, 1, 3, WORKS)}, 1)
    assert watch.quiet_since(0.0) == watch.away_since(1) == 105.0


def test_a_process_that_says_nothing_is_away_though_its_connection_is_there():
    """As one that was stopped (SIGSTOP): its signs end, and nothing else."""
    agreed = agreed_for(small(), patience=1.2)
    found = [network_of(agreed, name) for name in agreed.parties]
    lab = found[0]
    try:
        together([n.party for n in found], lambda p: _of(found, p).start())

        def wait():
            lab.until(lambda: False, "the end", agreed.parties)

        waiting = threading.Thread(target=_swallow, args=(wait,))
        waiting.start()
        # All others are at work of their own, since they do not wait.
        waiting.join(3.0)
        assert waiting.is_alive()
        for network in found[1:]:
            network.vigil.end()
        waiting.join(20.0)
        assert not waiting.is_alive() and SERVER in lab.peers.outboxes
    finally:
        for network in found:
            network.close()


def _of(found, name):
    return next(network for network in found if network.party == name)


def _swallow(work):
    with pytest.raises(Missing):
        work()


def slow(problem, who, step, seconds, role=None):
    """Data of all parties; one of them takes so long for a step."""

    def data(_, name):
        batch = own_of(problem, role(name) if role else name)

        def given(at):
            if name == who and at == step:
                time.sleep(seconds)
            return batch

        return given

    return data


@pytest.mark.parametrize("who", ["lab", "server"])
def test_a_step_that_takes_longer_than_patience_is_waited_for(who):
    """At the lead and at a member: the bits are those of the undisturbed run."""
    problem = small()
    agreed = agreed_for(problem, steps=4, checkpoint=2, patience=0.8)
    data = slow(problem, who, 2, 2.5)
    results = checked(train_in_memory(agreed, problem, data=data))
    states = undisturbed(problem, 4)
    for name, result in results.items():
        assert bits(result.state) == bits(states[name])
        assert result.epoch == 1


def test_a_client_that_computes_is_not_passed_over():
    problem = small("pair")
    turns = party.turns(
        {c: {"client": c} for c in "ab"}, [("a", 1), ("b", 1)], missing="skip"
    )
    agreed = agreed_for(problem, steps=4, checkpoint=1, patience=0.8, turns=turns)
    made, role = optimizers(problem.topology), agreed.turns.role
    rates = {p: made[role[p]] for p in agreed.parties}
    data = slow(problem, "b", 1, 2.5, role.get)
    results = checked(train_in_memory(agreed, problem, rates, data=data))
    assert not results["server"].away and results["server"].epoch == 1
    assert bits(results["b"].state) == bits(undisturbed(problem, 4)["client"])


def two_in_turn(problem, steps):
    """Two clients by turns, either of which may be passed over."""
    turns = party.turns(
        {c: {"client": c} for c in "ab"},
        [("a", 2), ("b", 2)],
        missing="skip",
        handoff="server",
    )
    return agreed_for(problem, steps=steps, checkpoint=2, patience=0.8, turns=turns)


def test_a_client_that_is_there_and_does_nothing_in_its_turn_is_passed_over(
    monkeypatch,
):
    """It says that it waits, while all wait for it; the others train to the end."""
    problem, over, idle = small("pair"), threading.Event(), threading.Event()
    agreed = two_in_turn(problem, steps=8)
    made, role = optimizers(problem.topology), agreed.turns.role
    say = Network._say_sign

    def said(self):
        self.vigil.waits |= self.party == "b" and idle.is_set()
        say(self)

    monkeypatch.setattr(Network, "_say_sign", said)

    def one(name):
        def on_step(metrics):
            if name == "b":
                idle.set()
                assert over.wait(60)
                raise TimeoutError

        batch = own_of(problem, role[name])
        result = party.run(
            agreed,
            name,
            problem.topology,
            lambda step: batch,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=made[role[name]],
            remind=0.2,
            transport=transport,
            on_step=on_step,
        )
        over.set()
        return result

    transport = party.MemoryTransport()
    results = together(agreed.parties, one)
    over.set()
    for name in ("a", "server"):
        assert checked({name: results[name]})[name].away == [(2, ["b"])]


def test_a_client_that_dies_in_each_turn_and_comes_back_is_passed_over_and_all_get_on(
    caplog, tmp_path
):
    """Each of its processes lets all go back, and none is away for as long as `patience`."""
    problem, over, deaths = small("pair"), threading.Event(), []
    agreed = two_in_turn(problem, steps=8)
    made, role = optimizers(problem.topology), agreed.turns.role
    transport = party.MemoryTransport()

    def once(name, on_step=lambda metrics: None):
        batch = own_of(problem, role[name])
        return party.run(
            agreed,
            name,
            problem.topology,
            lambda step: batch,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=made[role[name]],
            remind=0.2,
            transport=transport,
            on_step=on_step,
            checkpoint=tmp_path / name,
        )

    def die(metrics):
        if metrics.step == 3:
            deaths.append(metrics.step)
            raise InterruptedError

    def one(name):
        while name == "b" and not over.is_set() and len(deaths) < 30:
            with suppress(InterruptedError, TimeoutError, party.Refused):
                once("b", die)
        if name == "b":
            return None
        try:
            return once(name)
        finally:
            over.set()

    results = together(agreed.parties, one)
    for name in ("a", "server"):
        found = checked({name: results[name]})[name]
        assert found.step == 8 and found.away[0] == (2, ["b"])
    assert "`b` came back again and again, and nothing got on" in caplog.text


def test_who_comes_back_often_is_not_waited_for_unless_all_got_on(clock):
    known = Comebacks()
    for number in range(4):
        assert not known.is_in_vain(1, 4, 5.0, lost=True)
        known.greeted(1, number, 4)
        known.greeted(1, number, 4)  # the same process, on a new connection
        clock[0] += 2.0
    assert not known.is_in_vain(1, 4, 50.0, lost=True)
    assert known.is_in_vain(1, 4, 5.0, lost=True)
    assert not known.is_in_vain(1, 4, 5.0, lost=False)
    assert not known.is_in_vain(1, 6, 5.0, lost=True)
    for number in range(4, 7):
        known.greeted(1, number, 4)
    assert known.is_in_vain(1, 4, 5.0, lost=False)
    known.greeted(1, 7, 6)
    assert not known.is_in_vain(1, 6, 5.0, lost=True)


def test_an_honest_client_is_not_lost_where_another_hands_nothing_over(monkeypatch):
    """The lead cannot tell which of the two it is: it tries both, and comes to an end."""
    problem = small("pair")
    agreed = two_in_turn(problem, steps=6)
    made, role = optimizers(problem.topology), agreed.turns.role
    rates = {p: made[role[p]] for p in agreed.parties}
    send, silent = Network.send, threading.Event()

    def sent(self, wire, *given):
        if self.party == "a" and self.member.terms.crossings[wire].kind == "weights":
            # From then on it is there, says that it waits, and does nothing.
            with self.vigil.waiting():
                assert silent.wait(60)
        send(self, wire, *given)

    monkeypatch.setattr(Network, "send", sent)
    done = Noting()
    done.gone = silent
    data = slow(problem, "", 0, 0, role.get)
    results = train_in_memory(agreed, problem, rates, data=data, transport=done)
    for name in ("b", "server"):
        assert checked({name: results[name]})[name].away[-1][1] == ["a"]


def test_who_stands_at_a_step_is_named_with_the_step_and_is_not_waited_for():
    """As where a user's data never come: all others end, and say who, where and since when."""
    problem, never = small(), threading.Event()
    agreed = agreed_for(problem, steps=4, patience=0.8, stall=1.0)

    def data(_, name):
        batch = own_of(problem, name)

        def given(at):
            if name == "lab" and at == 2:
                assert never.wait(60)
            return batch

        return given

    transport = Noting()
    transport.gone = never
    found = train_in_memory(agreed, problem, data=data, transport=transport)
    for name in ("clinic", "server"):
        assert isinstance(found[name], Missing), found[name]
        # Its data are asked for before their step, while it waits in the one before.
        words = (
            r"`lab` is there and has been at step [23] for . s, which is longer than "
        )
        # Of the clinic what it has heard of the lab by the lead.
        whose = (
            "`stall`, 1 s, as `server` says" if name == "clinic" else "`stall`, 1 s$"
        )
        assert re.search(words + whose, str(found[name]))


class Noting(party.MemoryTransport):
    """A transport that sets an event when its one listener closes."""

    gone: threading.Event

    def listen(self, *given, **options):
        listener = super().listen(*given, **options)
        close = listener.close

        def closed(grace=5.0):
            self.gone.set()
            close(grace)

        listener.close = closed
        return listener


class Blocked:
    """A channel that sends nothing until it is let go."""

    peer = "server"

    def __init__(self):
        self.free, self.sent = threading.Event(), []

    def send(self, frame, timeout):
        assert self.free.wait(30)
        self.sent.append(frame)

    def close(self, reason="", wait=0.0):
        """There is nothing to close."""


def test_behind_a_frame_that_takes_long_only_the_newest_sign_is_due():
    """Else they would fill the queue on a slow line, and cut it within every large frame."""
    channel = Blocked()
    line = Outbox(channel, 30.0, 64, lambda error: None)
    for number in range(200):
        line.put(text_of(Head("sign"), {"signs": {"0": [number, 0, 0, True]}}))
    assert line.ends is None and len(line.due) <= 1
    channel.free.set()
    line.end("all was sent.")
    line.join()
    assert 0 < len(channel.sent) <= 2
    assert about(channel.sent[-1])["signs"] == {"0": [199, 0, 0, True]}


def test_a_process_of_other_versions_is_told_of_once_with_who_has_which(caplog):
    network = network_of(agreed_for(small()), "lab")
    try:
        with network.changed:
            network.member.versions = {"jax": "0.10.2"}
            network.member.versions_of[SERVER] = {"jax": "0.10.3"}
            network.peers.met(SERVER)
            network.peers.met(SERVER)
    finally:
        network.close()
    said = [r.message for r in caplog.records if "versions differ" in r.message]
    assert said == [
        "lab: versions differ: jax is 0.10.2 at `lab` and 0.10.3 at `server`"
    ]


def test_on_a_full_disk_a_process_loses_no_number_so_no_clock_makes_it_older(
    tmp_path, monkeypatch
):
    class Full(FileIO):
        def write(self, data):
            raise OSError(ENOSPC, "No space left on device")

    def number(kind=FileIO):
        with kind(tmp_path / "process", "a+") as file:
            return folder.number_process(file)

    first = number()
    with pytest.raises(OSError, match="No space left"):
        number(Full)
    monkeypatch.setattr(folder.time, "time_ns", lambda: 1)
    assert number() == first + 1
