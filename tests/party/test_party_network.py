"""A party's connections, without any model: how they begin and end, and who is told what."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from jsplit import party
from jsplit.party.connection import connections, outbox
from jsplit.party.connection.connections import Connections
from jsplit.party.connection.interrupts import Missing
from jsplit.party.connection.network import Network, Reach, Stopped
from jsplit.party.connection.outbox import Outbox
from jsplit.party.connection.passing import SPARE, room_of
from jsplit.party.connection.reader import serve
from jsplit.wire import codec
from jsplit.wire.certs import PlaintextWithoutIdentity
from jsplit.wire.channel import Ends
from jsplit.wire.codec import Frame, Head, frame_of, text_of
from jsplit.wire.control import Status
from jsplit.wire.errors import Refused
from jsplit.wire.member import Member
from jsplit.wire.memory import MemoryTransport, memory_pair
from jsplit.wire.pipe import Closed
from jsplit.wire.rpc import Grpc
from jsplit.wire.terms import Crossing, Terms
from tests.party.federation import LONG, agreed_for, small

LAB, CLINIC, SERVER = 0, 1, 2


def network_of(agreed, name, instance=5, durable=(0,), **options) -> Network:
    """A party of a run in which nothing crosses."""
    parties = agreed.parties
    clients = tuple(
        tuple(parties.index(p) for p in cast.values())
        for cast in agreed.turns.clients.values()
    )
    terms = Terms(
        b"r" * 32,
        parties,
        (),
        (),
        3,
        clients=clients if agreed.turns.skips else (),
    )
    direct = frozenset(
        parties.index(p) for p, how in agreed.reach(name).items() if how != "lead"
    )
    status, lead = Status(instance, 0, durable), parties.index(agreed["lead"])
    member = Member(terms, parties.index(name), lead, status, {"steps": 3}, direct)
    return Network(
        agreed,
        name,
        member,
        PlaintextWithoutIdentity(name),
        1 << 20,
        Reach(remind=0.2, **options),
    )


@contextmanager
def started(agreed=None):
    """All parties, once their first epoch has begun."""
    agreed = agreed or agreed_for(small(), patience=20.0)
    found = [network_of(agreed, name) for name in agreed.parties]
    try:
        threads = [threading.Thread(target=n.start) for n in found]
        for t in threads:
            t.start()
        for t in threads:
            t.join(LONG)
        assert [n.epoch for n in found] == [1] * len(found)
        yield found
    finally:
        for n in found:
            n.peers.verdict = None  # whoever is still there need not be told
            n.close()


def soon(there, seconds=10.0):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def gated(network):
    """Whether a party can dial, from now on."""
    gate, dial = threading.Event(), network.connections.transport.dial

    def wait(*args, **options):
        gate.wait(LONG)
        return dial(*args, **options)

    network.connections.transport = SimpleNamespace(dial=wait)
    return gate


def error_of(network, patience=8.0) -> BaseException:
    with pytest.raises(Exception) as found:
        network.until(lambda: False, "the end", network.agreed.parties, patience)
    return found.value


def test_who_waits_for_what_comes_by_way_of_the_lead_names_the_lead():
    """It may drop what it should pass on, and be there for all else."""
    agreed = agreed_for(small("chain"), patience=0.2)
    for name, end in (("two", ", which comes by way of `three`"), ("three", "")):
        with closing(network_of(agreed, name)) as network:
            with pytest.raises(party.Missing) as error:
                network.until(lambda: False, "activation `a`", ["one"])
        assert str(error.value) == f"`{name}` waited 0.2 s for activation `a`{end}"


# It is over.


def test_a_refusal_goes_out_before_its_connection_is_closed_however_late(monkeypatch):
    send = Ends.send

    def late(self, frame, timeout):
        time.sleep(1.2 * (frame.head.kind == "refusal"))
        send(self, frame, timeout)

    monkeypatch.setattr(Ends, "send", late)
    with started() as (lab, clinic, server):
        server.peers.fail(Refused("it is over."), tell=True)
        server.close()
        told = '`server` says: "it is over."'
        said = [str(error_of(n)) for n in (lab, clinic, server)]
        assert said == [told, told, "it is over."]


def test_who_is_away_when_it_is_over_is_told_when_it_comes_back():
    with started() as (lab, clinic, server):
        gate = gated(lab)
        lab.peers.outboxes[SERVER].cut("as if it were lost")
        soon(lambda: LAB not in server.peers.outboxes)
        server.peers.fail(Refused("it is over."), tell=True)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert isinstance(error_of(clinic), Refused)
        gate.set()
        assert str(error_of(lab)) == '`server` says: "it is over."'
        closing.join(30.0)
        assert not closing.is_alive()


def test_who_does_not_come_back_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(connections, "_TELLING", 0.3)
    # A connection that was just being made when the gate closed is read by nobody: its
    # last frames have this long, which is another bound than the one of this law.
    monkeypatch.setattr(outbox, "_LAST", 1.0)
    with started() as (lab, _, server):
        gate = gated(lab)
        lab.peers.outboxes[SERVER].cut("as if it were lost")
        soon(lambda: LAB not in server.peers.outboxes)
        server.peers.fail(Refused("it is over."), tell=True)
        began = time.monotonic()
        server.close()
        assert 0.3 <= time.monotonic() - began < 5
        gate.set()


def test_what_the_lead_finds_while_it_passes_somebody_over_is_told_to_all():
    turns = party.turns(
        {c: {"client": c} for c in ("north", "south")},
        [("north", 1), ("south", 1)],
        missing="skip",
    )
    agreed = agreed_for(small("pair"), patience=0.5, turns=turns)
    north, server = (
        network_of(agreed, "north", durable=(1,)),
        network_of(agreed, "server"),
    )
    try:
        rendezvous = server.member.rendezvous
        assert rendezvous is not None  # the server leads
        soon(lambda: 0 in rendezvous.there)
        for n in (server, north):
            assert isinstance(
                found := error_of(n), Refused
            ) and "no checkpoint in common" in str(found)
            if n is server:
                server.close()
    finally:
        north.close()


def test_a_frame_that_has_no_form_on_the_wire_ends_the_party_that_sends_it():
    with started() as (lab, clinic, _):
        shapes = ((np.dtype("M8[s]"), (1,)),)
        lab.peers.outboxes[SERVER].put(
            Frame(Head("activation", shapes=shapes), (np.zeros(1, "M8[s]"),))
        )
        assert isinstance(
            found := error_of(lab), ValueError
        ) and "no form on the wire" in str(found)
        assert clinic.peers.fatal is None


def test_a_party_that_cannot_dial_at_all_ends():
    with started() as (lab, *_):

        def broken(*args, **options):
            raise KeyError("host")

        transport = MemoryTransport()
        transport.dial = broken
        lab.connections.transport = transport
        lab.peers.outboxes[SERVER].cut("as if it were lost")
        assert isinstance(error_of(lab), KeyError)


@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError, OSError])
def test_a_transport_of_one_s_own_may_fail_as_sockets_do_and_is_dialled_again(kind):
    class Failing(MemoryTransport):
        dialled = 0

        def dial(self, *args, **options):
            self.dialled += 1
            raise kind("no route")

    transport = Failing()
    lab = network_of(agreed_for(small()), "lab", transport=transport)
    try:
        soon(lambda: transport.dialled > 2)
        error = error_of(lab, patience=0.2)
        assert isinstance(error, Missing)
        assert f"no connection with `server`: {kind.__name__}: no route" in str(error)
    finally:
        lab.close()


@pytest.mark.parametrize(
    "transport", [MemoryTransport, {}, False, "grpc", SimpleNamespace(dial=print)]
)
def test_what_is_no_transport_is_refused_where_it_is_given(transport):
    with pytest.raises(ValueError, match="`transport` must be an object with"):
        Reach(transport=transport)


# A connection begins with a hello, and counts from then on.


def test_an_older_process_of_a_party_is_told_so_and_disturbs_nobody():
    with started() as (lab, _, server):
        line = server.peers.outboxes[LAB]
        older = network_of(lab.agreed, "lab", instance=4)
        try:
            assert str(error_of(older)) == (
                '`server` says: "another process of `lab` was started later."'
            )
        finally:
            older.close()
        assert server.peers.outboxes[LAB] is line and line.ends is None
        assert all(n.peers.fatal is None and n.member.epoch == 1 for n in (lab, server))


def test_a_newer_process_of_a_party_takes_the_place_of_an_older_one_which_ends():
    with started() as (lab, clinic, server):
        newer = network_of(lab.agreed, "lab", instance=6)
        try:
            newer.start()
            assert str(error_of(lab)) == (
                '`server` says: "another process of `lab` was started later."'
            )
            start = server.member.start
            assert start is not None and start.instances == (6, 5, 5)
            assert server.peers.fatal is None
        finally:
            newer.close()


def test_a_connection_on_which_nobody_says_hello_counts_for_nothing():
    with started() as (_, _, server):
        line = server.peers.outboxes[LAB]
        here, there = memory_pair("server", "lab")
        reading = threading.Thread(target=serve, args=(server.peers, LAB, here))
        reading.start()
        assert there.receive(5.0).head.kind == "hello"
        there.send(
            text_of(Head("bye", sender=LAB, receiver=SERVER, run=b"r" * 32), {}), 1.0
        )
        reading.join(5.0)
        assert (
            not reading.is_alive()
            and here.inward.reason
            and server.peers.outboxes[LAB] is line
        )


def test_a_connection_that_comes_up_while_a_party_leaves_is_closed():
    with started() as (lab, *_):
        lab.leave("it is enough.")
        here, there = memory_pair("lab", "server")
        reading = threading.Thread(
            target=serve, args=(lab.peers, SERVER, here), daemon=True
        )
        reading.start()
        with pytest.raises(Closed, match="`lab` has left"):
            there.receive(1.0)
        soon(
            lambda: (
                not (reading.is_alive() or lab.peers.outboxes or lab.peers.all_outboxes)
            )
        )


# What is due.


def test_what_is_due_already_is_not_due_twice_and_what_a_peer_asks_for_without_reading_is_bounded():
    here, there = memory_pair("server", "lab")
    line = Outbox(here, 60.0, 8, lambda error: None)
    big = frame_of(Head("activation"), [np.zeros(8 << 20, np.uint8)])
    line.put(big)
    soon(lambda: line.busy)
    for n in range(8):
        for _ in range(3):
            line.put(text_of(Head("sync"), {"next": n}))
    assert len(line.due) == 8 and line.ends is None
    line.put(text_of(Head("start"), {}))
    assert not line.due and not line.idle
    with pytest.raises(Closed, match="does not read what it is sent, 8 frames"):
        while True:
            there.receive(1.0)
    line.join()


def test_of_what_is_sealed_and_tells_a_state_the_newest_alone_is_due_and_in_order():
    """No two seals are alike, so a line that stands still would fill up with them."""
    here, there = memory_pair("server", "lab")
    line = Outbox(here, 60.0, 8, lambda error: None)
    line.put(frame_of(Head("activation"), [np.zeros(8 << 20, np.uint8)]))
    soon(lambda: line.busy)
    tell, ask = (Head("sync", micro=micro, sealed=True) for micro in (0, 1))
    value = Head("activation", step=1, sealed=True)
    for n in range(50):
        line.put(frame_of(tell, [np.array([n])]))
        line.put(frame_of(value, [np.array([n])]))
        line.put(frame_of(ask, [np.array([n])]))
    assert len(line.due) == 3 and line.ends is None
    there.receive(5.0)
    found = [there.receive(5.0) for _ in range(3)]
    # A value is the same whenever it was sealed, so the first stays in its place.
    assert [(f.head.kind, f.head.micro, f.arrays[0][0]) for f in found] == [
        ("activation", 0, 0),
        ("sync", 0, 49),
        ("sync", 1, 49),
    ]
    line.end("")
    line.join()


def passed_on(kind, step, size, value=0, epoch=1):
    head = Head(kind, epoch=epoch, receiver=1, step=step, value=value, sealed=True)
    return frame_of(head, [np.zeros(size, np.uint8)])


def test_what_is_passed_on_has_no_more_room_than_its_sender_needs():
    """Neither memory nor a connection of the receiver is for its sender to take."""
    shapes = ((np.dtype(np.float32), (1 << 18,)),)
    wires = (Crossing("activation", "h", (0,), 1), Crossing("weights", "w", (0,), 1))
    terms = Terms(b"r" * 32, ("lab", "clinic", "server"), wires, (shapes, ()), 99)
    room = room_of(terms, 0, 1)
    here, there = memory_pair("server", "clinic")
    line = Outbox(here, 60.0, 20, lambda error: None)
    # Its own: what another may have due does not depend on it.
    line.put(frame_of(Head("activation", sender=2), [np.zeros(8 << 20, np.uint8)]))
    soon(lambda: line.busy)
    for step in range(50):
        line.put(passed_on("weights", step, 3 << 20, value=1), room)
        line.put(passed_on("activation", step, (1 << 20) + 99), room)
    kinds = [frame.head.kind for frame in line.due.values()]
    assert kinds.count("weights") == 1
    assert 2 <= kinds.count("activation") <= 3 and line.ends is None
    # What is of an epoch before is void, and takes no room.
    line.put(passed_on("weights", 60, 3 << 20, value=1, epoch=2), room)
    assert [frame.head.step for frame in line.due.values()] == [60]
    for step in range(50):
        line.put(passed_on("activation", step, 8, epoch=2), room)
    assert len(line.due) == room.frames == SPARE + 4 and line.ends is None
    line.due.clear()
    for n in range(50):
        line.put(text_of(Head("key", epoch=2, receiver=1), {"n": n}), room)
    assert [codec.about(frame)["n"] for frame in line.due.values()] == [0, 49]
    line.cut("")
    line.join()


def test_a_line_that_ends_sends_what_is_due_and_closes_then():
    here, there = memory_pair("server", "lab")
    line = Outbox(here, 60.0, 64, lambda error: None)
    for n in range(40):
        line.put(frame_of(Head("activation", step=n), [np.zeros(600_000, np.uint8)]))
    line.end("it is enough.")
    line.put(text_of(Head("start"), {}))  # too late
    assert [there.receive(5.0).head.step for _ in range(40)] == list(range(40))
    with pytest.raises(Closed, match="it is enough"):
        there.receive(5.0)
    line.join()


# What is said of others.


def test_missing_says_why_a_party_has_left_and_nothing_of_what_is_well_again():
    with started() as (lab, clinic, server):
        gate = gated(clinic)
        clinic.peers.outboxes[SERVER].cut("as if it were lost")
        soon(lambda: "clinic" in server.peers.trouble)
        gate.set()
        lab.leave("`lab` was asked to stop.")
        soon(lambda: CLINIC in server.peers.outboxes and "lab" in server.peers.trouble)
        soon(lambda: LAB not in server.peers.outboxes)
        found = error_of(server, 0.3)
        assert isinstance(found, party.Missing)
        assert (
            str(found)
            == "`server` waited 0.3 s for the end: `lab` has left, and says: "
            '"`lab` was asked to stop."'
        )


def test_missing_says_what_came_by_way_of_the_lead_and_could_not_be_taken():
    with started() as (lab, _, _):
        why = "a frame of `clinic` was not sealed by it; it came by way of `server`."
        lab.peers.strays.note(CLINIC, why)
        assert str(error_of(lab, 0.3)).endswith(f"for the end: {why}")
        lab.peers.strays.found(CLINIC)
        assert "clinic" not in str(error_of(lab, 0.3))


def test_a_goodbye_is_told_once_however_often_it_comes_on_a_connection(caplog):
    caplog.set_level("INFO", "jsplit")
    with started() as (lab, _, server):
        for n in range(40):
            with lab.changed:
                lab.peers.outboxes[SERVER].put(lab.member.bye(SERVER, f"for the {n}."))
        soon(lambda: "for the 39." in server.peers.trouble.get("lab", ""))
    lines = [r.getMessage() for r in caplog.records]
    assert sum(m.startswith("server: `lab` has left") for m in lines) == 1


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (
            {"nobody": "a:1"},
            "`addresses` names the party `nobody`, which is not one of lab, clinic, server",
        ),
        ({"server": 8476}, "`addresses` must say host:port for `server`, got 8476"),
        ({"server": "a"}, "must say host:port"),
        ({"server": "a:"}, "must say host:port"),
        ({"server": ":1"}, "must say host:port"),
        ({"server": "a:70000"}, "must say host:port"),
    ],
)
def test_addresses_that_are_none_are_refused_and_named(addresses, message):
    agreed = agreed_for(small())
    with pytest.raises(ValueError, match=message):
        Connections(
            agreed,
            "lab",
            None,
            PlaintextWithoutIdentity("lab"),
            1,
            Grpc(),
            addresses=addresses,
        )  # type: ignore[arg-type]


def test_who_is_asked_to_stop_waits_no_more_and_can_still_leave():
    with started() as (lab, _, server):
        asked = threading.Event()
        lab.asked = asked.is_set
        threading.Timer(0.1, asked.set).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            lab.until(lambda: False, "the end")
        assert time.monotonic() - began < 2
        lab.until(lambda: True, "what is there")
        lab.leave("`lab` was asked to stop.")
        soon(lambda: LAB in server.member.gone)
