"""A lead that reads, forges and repeats what others exchange through it; a stranger at the door."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

import grpc
import numpy as np
import pytest

from jsplit import party
from jsplit.wire import signatures
from jsplit.wire.certs import authority, host_of, uri_of
from jsplit.wire.channel import accept_all
from jsplit.wire.codec import CodecError, frame_of, text_of
from jsplit.wire.control import Status
from jsplit.wire.errors import Astray, RemoteProtocolError
from jsplit.wire.key_exchange import KeyExchange
from jsplit.wire.member import Member
from jsplit.wire.memory import MemoryTransport
from jsplit.wire.pipe import Closed
from jsplit.wire.relay import Seals
from jsplit.wire.rpc_listener import METHOD, SERVICE, Listener
from jsplit.wire.seal import Sealer
from jsplit.wire.terms import Crossing, Terms
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    small,
    train_in_memory,
    undisturbed,
)

RUN, PARTIES = b"r" * 32, ("lab", "clinic", "server")
LAB, CLINIC, SERVER = 0, 1, 2
VALUE = [np.arange(8, dtype=np.float32)]


class World:
    """Two clients without a connection, and a lead between them that obeys, or does not."""

    def __init__(self):
        trust = authority(PARTIES)
        wires = (
            Crossing("activation", "h", (0,), 1),
            Crossing("cotangent", "h", (1,), 0),
        )
        shapes = (((np.dtype(np.float32), (8,)),),) * 2
        terms = Terms(RUN, PARTIES, wires, shapes, 9, window=3)
        uris = [uri_of(p) for p in PARTIES]

        def seals(p) -> Seals:
            return Sealer(
                KeyExchange(trust[PARTIES[p]], PARTIES, uris, RUN, p, 10 + p), 1 << 20
            )

        self.parties = [
            Member(
                terms,
                p,
                SERVER,
                Status(10 + p, 0, (0,)),
                direct=frozenset({SERVER}) if p != SERVER else None,
                seals=seals(p) if p != SERVER else None,
            )
            for p in range(3)
        ]
        self.passed, self.dropped = [], []
        for p in (LAB, CLINIC):
            self.carry(p, [(SERVER, self.parties[p].hello(SERVER))])

    def carry(self, sender, outgoing):
        """Take all to its receivers by way of the lead, and all that they answer."""
        due = [(sender, *message) for message in outgoing]
        for count in range(1000):
            if not due:
                return
            assert count < 500, "they answer each other for ever"
            sender, receiver, frame = due.pop(0)
            if SERVER not in (sender, receiver):
                self.parties[SERVER].accept(sender, frame.head)
                self.passed.append(frame)
            try:
                due += [(receiver, *m) for m in self.take(receiver, frame, sender)]
            except Astray as error:
                self.dropped.append(str(error))

    def take(self, receiver, frame, sender=SERVER):
        over = sender if SERVER in (sender, receiver) else SERVER
        self.parties[receiver].accept(over, frame.head)
        return self.parties[receiver].receive(over, frame)


@pytest.fixture
def world():
    return World()


def test_two_parties_behind_the_lead_come_to_keys_and_only_keys_pass_it_open(world):
    kinds = {(f.head.kind, f.head.sealed) for f in world.passed}
    assert kinds == {("key", False), ("sync", True)}
    world.carry(LAB, world.parties[LAB].send(0, 0, 0, VALUE))
    found = world.parties[CLINIC].take(0, 0, 0)
    assert (found[0] == VALUE[0]).all()
    world.parties[CLINIC].finished(0)
    assert {f.head.sealed for f in world.passed if f.head.kind != "key"} == {True}


def test_a_lead_says_in_no_ones_name_what_that_one_has_or_lacks(world):
    """By a sync it could make a sender drop what it keeps, or send it all again."""
    lab = world.parties[LAB]
    world.carry(LAB, [m for n in range(3) for m in lab.send(0, n, 0, VALUE)][:1])
    kept = dict(lab.sessions[CLINIC].kept)
    assert kept
    forged = replace(lab.sessions[CLINIC].head("sync"), sender=CLINIC, receiver=LAB)
    forged = replace(forged, instance=10 + CLINIC)
    frame = text_of(forged, {"next": {"0": 3}, "done": 3, "again": False})
    with pytest.raises(RemoteProtocolError, match="sync came by way of `server` and"):
        world.take(LAB, frame)
    sealed = frame_of(replace(forged, sealed=True), [np.zeros(200, np.uint8)])
    with pytest.raises(Astray, match="not sealed by it .*; it came by way of `server`"):
        world.take(LAB, sealed)
    assert lab.sessions[CLINIC].kept == kept
    # One client in the place of another is not even passed on.
    with pytest.raises(RemoteProtocolError, match="sent a frame from `clinic`"):
        world.parties[SERVER].accept(LAB, replace(forged, receiver=LAB))


def test_who_passed_on_a_key_that_is_not_taken_is_named_too(world):
    """The lead may have written it in the other's name."""
    forged = replace(world.parties[CLINIC].sessions[LAB].head("key"), instance=11)
    said = "`lab` does not take the key of `clinic`: .*; it came by way of `server`"
    with pytest.raises(party.Refused, match=said):
        world.take(LAB, text_of(forged, {"public": "zz"}))


def test_a_certificate_that_ended_behind_the_lead_ends_no_run_and_is_asked_for_again(
    monkeypatch,
):
    """As where parties dial each other: the next time it may have been renewed."""
    with monkeypatch.context() as ended:
        ended.setattr(signatures, "_is_valid_now", lambda certificate: False)
        world = World()
    lab, clinic = world.parties[LAB], world.parties[CLINIC]
    assert "not valid now; it came by way of `server`." in world.dropped[0]
    assert lab.send(0, 0, 0, VALUE) == []  # there is no key to seal it with
    world.carry(CLINIC, clinic.resend())
    world.carry(LAB, lab.resend())
    assert clinic.take(0, 0, 0) is not None


@pytest.mark.parametrize("said", [[], {"next": 3}, {"next": {"1": 99}, "done": 0}])
def test_what_one_seals_that_it_may_not_send_is_dropped_and_its_sender_named(
    world, said
):
    """The receiver would else close its connection with the lead, again and again."""
    lab, clinic = world.parties[LAB], world.parties[CLINIC]
    frame = text_of(lab.sessions[CLINIC].head("sync"), said)
    with pytest.raises(Astray, match="; it came by way of `server`"):
        world.take(CLINIC, lab.seals.seal(frame))
    world.carry(LAB, lab.send(0, 0, 0, VALUE))
    assert clinic.take(0, 0, 0) is not None


def test_a_lead_gets_no_answer_to_what_it_repeats(world):
    lab = world.parties[LAB]
    for step in range(2):
        world.carry(LAB, lab.send(0, step, 0, VALUE))
    again = [f for f in world.passed if f.head.kind != "key"]
    assert len(again) > 3
    for frame in again:
        assert world.take(frame.head.receiver, frame) == []
    assert world.parties[CLINIC].sessions[LAB].next_receive == {0: 2}


class Tapped:
    """A channel of the lead, on which it sends what it passes on again and again."""

    def __init__(self, channel, seen):
        self.channel, self.seen, self.peer = channel, seen, channel.peer
        self.receive, self.close = channel.receive, channel.close

    def send(self, frame, timeout):
        self.channel.send(frame, timeout)
        if frame.head.sender != SERVER:
            before = [f for f in self.seen if f.head.receiver == frame.head.receiver]
            self.seen.append(frame)
            for old in [*before[-3:], *before[::7], frame]:
                if old.head.sealed:
                    self.channel.send(old, timeout)


class Repeating(MemoryTransport):
    def __init__(self):
        super().__init__()
        self.seen = []

    def listen(self, address, trust, allowed, met, limit, pulse=None):
        def tapped(name, opened):
            met(name, lambda accept: Tapped(opened(accept), self.seen))

        return super().listen(address, trust, allowed, tapped, limit)


def test_a_run_whose_lead_repeats_all_that_it_passes_on_has_the_same_bits():
    problem = small("chain")
    agreed, hub = agreed_for(problem, steps=4), Repeating()
    assert agreed.reach("one")["two"] == "lead"
    results = checked(train_in_memory(agreed, problem, transport=hub))
    kinds = {(f.head.kind, f.head.sealed) for f in hub.seen}
    assert {k for k, sealed in kinds if not sealed} == {"key"}
    assert ("sync", True) in kinds and ("activation", True) in kinds
    for name, state in undisturbed(problem, 4).items():
        assert bits(results[name].state) == bits(state)


class Garbling(Repeating):
    """Before each sealed frame that the lead passes on goes one of zeros, and it altered."""

    def listen(self, address, trust, allowed, met, limit, pulse=None):
        def garbled(name, opened):
            def channel(accept):
                found = opened(accept)
                send = found.send

                def both(frame, timeout):
                    if frame.head.sealed:
                        self.seen.append(frame)
                        data = frame.arrays[0]
                        for wrong in (np.zeros(64, np.uint8), data ^ np.uint8(1)):
                            send(frame_of(frame.head, [wrong]), timeout)
                    send(frame, timeout)

                found.send = both
                return found

            met(name, channel)

        return MemoryTransport.listen(self, address, trust, allowed, garbled, limit)


def test_what_comes_by_way_of_the_lead_and_does_not_open_costs_nobody_a_connection(
    caplog,
):
    caplog.set_level(logging.INFO, "jsplit")
    problem, hub = small("chain"), Garbling()
    results = checked(
        train_in_memory(agreed_for(problem, steps=4), problem, transport=hub)
    )
    for name, state in undisturbed(problem, 4).items():
        assert bits(results[name].state) == bits(state)
    lines = [r.getMessage() for r in caplog.records]
    assert len(hub.seen) > 8 and not [m for m in lines if "refused what" in m]
    # Of each sender one line, however many come.
    for name, other in (("one", "two"), ("two", "one")):
        told = [m for m in lines if m.startswith(f"{name} drops what it cannot take")]
        assert len(told) == 1
        assert f"`{other}` was not sealed by it" in told[0] and "`three`" in told[0]


# A certificate of the same authority, and no role.


def test_a_stranger_with_a_certificate_of_the_authority_is_refused_before_anything_is_read(
    caplog,
):
    trust, read, met = authority(["lab", "server", "stranger"]), [], []

    def meet(name, opened):
        met.append(name)
        with suppress(CodecError, Closed, TimeoutError):
            opened(accept_all).receive(9)

    class Watched(Listener):
        def talk(self, requests, context):
            def watched():
                for chunk in requests:
                    read.append(chunk)
                    yield chunk

            return super().talk(watched(), context)

    listener = Watched(
        "127.0.0.1:0",
        trust["server"],
        {uri_of("lab"): "lab"},
        meet,
        1 << 20,
    )

    def talk(name):
        own = trust[name]
        credentials = grpc.ssl_channel_credentials(
            own.authority, own.key, own.certificate
        )
        options = [("grpc.ssl_target_name_override", host_of("server"))]
        address = f"127.0.0.1:{listener.port}"
        with grpc.secure_channel(address, credentials, options) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")
            return list(call(iter([b"something"] * 9), timeout=20))

    try:
        with caplog.at_level(logging.WARNING), pytest.raises(grpc.RpcError) as error:
            talk("stranger")
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert not read and not met and uri_of("stranger") in caplog.text
        # The same words of a party are read, so the watch would have seen it.
        talk("lab")
        assert read and met == ["lab"]
    finally:
        listener.close(0.1)


def test_a_stranger_is_refused_in_memory_too_before_there_is_a_connection():
    trust, met = authority(["lab", "server", "stranger"]), []
    hub = MemoryTransport()
    hub.listen("a:1", trust["server"], {uri_of("lab"): "lab"}, met.append, 1 << 20)
    with pytest.raises(Closed, match="not on the allow-list"):
        hub.dial("a:1", "server", trust["stranger"], 1 << 20)
    assert not met


def test_a_strangers_key_is_no_partys_key_behind_the_lead():
    """It has a certificate of the authority, and the lead passes its offer on."""
    trust, uris = authority([*PARTIES, "stranger"]), [uri_of(p) for p in PARTIES]
    lab, stranger = (
        Sealer(KeyExchange(trust[name], PARTIES, uris, RUN, place, 10 + place), 1 << 20)
        for name, place in (("lab", LAB), ("stranger", CLINIC))
    )
    assert stranger.meet(LAB, 10, lab.offer(CLINIC))
    with pytest.raises(party.Refused, match="names .*stranger.*, not .*clinic"):
        lab.meet(CLINIC, 11, stranger.offer(LAB))
    assert not lab.has(CLINIC)
