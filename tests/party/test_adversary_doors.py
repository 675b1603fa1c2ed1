"""Outsiders and single members that connect in bad faith: a run ends as undisturbed.

What a listener alone does about it is in `tests/wire/test_wire_door.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit import party
from jsplit.core.base import PartyState
from jsplit.party import scarce_files
from jsplit.party.connection import newcomers, reader
from jsplit.party.connection.newcomers import Pace
from jsplit.party.connection.reader import serve
from jsplit.party.durable import CheckpointStore
from jsplit.wire import open_files, rpc_listener
from jsplit.wire.channel import CHUNK
from jsplit.wire.chunks import split_up
from jsplit.wire.memory import memory_pair
from jsplit.wire.pipe import Closed
from jsplit.wire.rpc import Grpc
from tests.party import federation
from tests.party.federation import agreed_for, bits, checked, small, train, undisturbed
from tests.party.test_party_network import LAB, SERVER, network_of, soon, started

OUTSIDER = """
import os, resource, socket, sys, time
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
port, times = int(sys.argv[1]), int(sys.argv[2])
half_a_handshake = bytes([22, 3, 1, 2, 0, 1, 0, 1, 252]) + bytes(50)
kept, first = [], True
while True:
    for n in range(times):
        said = [b"", half_a_handshake, b"GET / HTTP/1.1" * 9, os.urandom(99)][n % 4]
        try:
            made = socket.create_connection(("127.0.0.1", port), 5)
            made.sendall(said)
            kept.append(made)
        except OSError:
            pass
    if first:
        print("here", flush=True)
    first, kept = False, kept[-times:]
    time.sleep(0.2)
"""


@contextmanager
def outsider(port: int, times: int):
    """Another process, without a certificate, that holds so many connections."""
    given = [sys.executable, "-c", OUTSIDER, str(port), str(times)]
    with subprocess.Popen(given, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
            yield
        finally:
            process.kill()


@contextmanager
def few_files(spare: int):
    """So many files more than there are, unless somebody raises the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ends_as_undisturbed(results, problem, steps):
    expected = undisturbed(problem, steps)
    for name, result in checked(results).items():
        assert bits(result.state.params) == bits(expected[name].params), name


# Outsiders.


@pytest.mark.parametrize("raised", [True, False])
def test_a_flood_of_outsiders_costs_no_run_its_checkpoints(
    raised, tmp_path, monkeypatch, caplog
):
    """With the limit of files as it was, and with one that cannot be raised."""
    if not raised:
        monkeypatch.setattr(open_files, "_WANTED", 0)
    monkeypatch.setattr(rpc_listener, "_HANDSHAKE", 1.0)
    problem, steps = small("pair"), 40
    agreed = agreed_for(problem, steps=steps, checkpoint=2)
    port = int(agreed.addresses["server"].rpartition(":")[2])
    flooding = ExitStack()

    def begin(name):
        def on_step(metrics):
            if name == "server" and metrics.step == 5:
                flooding.enter_context(outsider(port, 800))
            time.sleep(0.02)

        return on_step

    threads = threading.active_count()
    with few_files(200), caplog.at_level(logging.INFO):
        with flooding:
            found = train(
                agreed, problem, checkpoint=lambda p: tmp_path / p, on_step=begin
            )
    ends_as_undisturbed(found, problem, steps)
    assert not [m for m in caplog.messages if "could not save" in m]
    assert len(caplog.records) < 40 and threading.active_count() < threads + 20


def test_a_certificate_of_nobody_in_the_agreement_costs_a_line_and_no_place(caplog):
    problem, steps = small("pair"), 12
    agreed = agreed_for(problem, steps=steps)
    names = (*agreed.parties, "stranger")
    trust = federation.trust_of(names)
    over, refused = threading.Event(), []

    def knock():
        while not over.is_set():
            try:
                address = agreed.addresses["server"]
                Grpc().dial(address, "server", trust["stranger"], 1 << 20).close()
            except Closed as error:
                refused.append(str(error))

    strangers = [threading.Thread(target=knock, daemon=True) for _ in range(4)]
    with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "trust_of", lambda parties: trust)
        for thread in strangers:
            thread.start()
        found = train(agreed, problem, on_step=lambda p: lambda m: time.sleep(0.05))
        over.set()
        for thread in strangers:
            thread.join(20.0)
    ends_as_undisturbed(found, problem, steps)
    assert sum("allow-list" in reason for reason in refused) > 20
    told = [m for m in caplog.messages if "allow-list" in m]
    assert len(told) == 2 and "connections in all" in told[1]


# One member among others.


def hello_of(network, peer):
    with network.changed:
        return network.member.hello(peer)


def served(network, peer):
    """A connection with a party that is served, and its other end."""
    here, there = memory_pair(network.party, network.names[peer])
    # As the end of `network` it is called by the peer's name.
    here.peer = network.names[peer]
    thread = threading.Thread(
        target=serve, args=(network.peers, peer, here), daemon=True
    )
    thread.start()
    # So that they count in the order in which they are made.
    soon(
        lambda: (
            not thread.is_alive()
            or any(line.channel is here for line in {*network.peers.all_outboxes})
        )
    )
    return there, thread


def reason_of(channel) -> str:
    with pytest.raises(Closed) as found:
        while True:
            channel.receive(10.0)
    return str(found.value)


@pytest.mark.parametrize("side", ["listens", "dials"])
@pytest.mark.parametrize("said", ["nothing", "half a hello, byte by byte"])
def test_a_connection_without_a_hello_ends_on_either_side(side, said, monkeypatch):
    monkeypatch.setattr(reader, "FIRST_WORD", 0.3)
    with started() as (lab, _, server):
        network, peer = (server, LAB) if side == "listens" else (lab, SERVER)
        line = network.peers.outboxes[peer]
        there, thread = served(network, peer)
        if said != "nothing":
            other = lab if side == "listens" else server
            whole = hello_of(other, other.names.index(network.party))
            text = b"".join(bytes(part) for part in split_up(whole, CHUNK))
            # Heads are never divided.
            there.outward.put(text[:-9])
        assert f"`{network.names[peer]}` did not say hello within 0.3 s." in (
            reason_of(there)
        )
        thread.join(10.0)
        assert not thread.is_alive()
        assert network.peers.outboxes[peer] is line and line.ends is None
        assert peer not in network.peers.newcomers.newest


def test_of_many_connections_without_a_hello_the_newest_counts_and_no_other_party_feels_it():
    with started() as (lab, clinic, server):
        lines = dict(server.peers.outboxes)
        before = threading.active_count()
        many = [served(server, LAB) for _ in range(60)]
        for there, _ in many[:-1]:
            assert "`lab` has connected once more." in reason_of(there)
        soon(lambda: len(server.peers.all_outboxes) == 3)
        soon(lambda: threading.active_count() < before + 10)
        assert server.peers.outboxes == lines
        newest, thread = many[-1]
        with suppress(TimeoutError):
            while True:
                newest.receive(1.5)
        newest.send(hello_of(lab, SERVER), 5.0)
        soon(lambda: server.peers.outboxes.get(LAB) is not lines[LAB])
        newest.close("it hangs up.")
        reason_of(newest)


def test_a_hello_on_a_connection_that_a_newer_one_has_followed_counts_for_nothing():
    with started() as (lab, _, server):
        line = server.peers.outboxes[LAB]
        first, thread = served(server, LAB)
        first.receive(5.0)
        newer, _ = memory_pair("lab", "server")
        with server.changed:
            # The hello is on its way while the newer one comes.
            first.send(hello_of(lab, SERVER), 5.0)
            outbox = server.peers.new_outbox(newer)
            assert server.peers.newcomers.admit(LAB, outbox)
        thread.join(10.0)
        assert server.peers.outboxes[LAB] is line and line.ends is None
        outbox.cut("it is enough.")


def test_a_party_is_slowed_down_that_connects_more_often_than_a_bad_line_makes_it():
    for every, slowed in ((1.0, False), (0.1, True)):
        now, pace, waited = 0.0, Pace(seen=0.0), []
        for _ in range(200):
            now += every
            waited.append(pace.pause(now))
            now += waited[-1]
            pace.pause(now)
            pace.spend()
        assert not any(waited[:20]) and (waited[-1] > 0.5) == slowed
    # By one for which all go back it waits longer, and never for as long as a peer waits
    # for its hello.
    for _ in range(100):
        pace.spend(newcomers._NEW_PROCESS)
    assert 1.0 < pace.pause(now) < newcomers.FIRST_WORD


def test_hellos_over_and_over_cost_others_nothing(monkeypatch, caplog):
    monkeypatch.setattr(newcomers, "_AT_ONCE", 5.0)
    with started() as (lab, clinic, server), caplog.at_level(logging.INFO):
        line, epoch = server.peers.outboxes[1], server.member.epoch
        server.peers.newcomers.paces.clear()
        server.peers.newcomers.paces[LAB] = Pace(5.0)
        hello, taken = hello_of(lab, SERVER), 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            there, thread = served(server, LAB)
            try:
                assert there.receive(0.05).head.kind == "hello"
                there.send(hello, 1.0)
                taken += 1
            except (TimeoutError, Closed):
                pass
            there.close("it hangs up.")
            reason_of(there)
        assert 5 <= taken <= 8
        assert server.peers.outboxes[1] is line and line.ends is None
        assert server.member.epoch == epoch and server.peers.fatal is None
        soon(lambda: len(server.peers.all_outboxes) <= 3)
        assert len(caplog.records) < 60
        soon(lambda: LAB in server.peers.outboxes)  # it has dialled again


def test_a_connection_is_of_one_process(caplog):
    """Else hellos of ever newer ones, on one connection, would make all go back."""
    with started() as (lab, _, server):
        there, _ = served(server, LAB)
        there.receive(5.0)
        there.send(hello_of(lab, SERVER), 5.0)
        there.send(hello_of(lab, SERVER), 5.0)  # of the same, as often as it likes
        with lab.changed:
            mine, member = lab.member.status, lab.member
            member.status = replace(mine, instance=mine.instance + 1)
            newer = member.hello(SERVER)
            member.status = mine
        there.send(newer, 5.0)
        # Else it would be taken for a process that was started later.
        said = "as another process on the connection of one"
        soon(lambda: said in caplog.text, 5.0)
        assert server.member.epoch == 1


def test_a_new_process_over_and_over_is_slowed_down_more(monkeypatch):
    with started() as (lab, _, server):
        spare = server.peers.newcomers.paces[LAB].spare
        newer = network_of(lab.agreed, "lab", instance=6)
        try:
            newer.start()
            pace = server.peers.newcomers.paces[LAB]
            assert pace.spare <= spare - newcomers._NEW_PROCESS
        finally:
            newer.close()


def test_a_member_that_opens_streams_over_and_over_takes_no_place_of_another(caplog):
    """Over gRPC: a run in which one more process has the client's certificate."""
    problem, steps = small("vertical"), 12
    agreed = agreed_for(problem, steps=steps)
    trust, over = federation.trust_of(agreed.parties), threading.Event()
    opened = []

    def flood():
        while not over.is_set():
            with suppress(Closed):
                address = agreed.addresses["server"]
                opened.append(Grpc().dial(address, "server", trust["lab"], 1 << 20))

    floods = [threading.Thread(target=flood, daemon=True) for _ in range(2)]

    def begin(name):
        def on_step(metrics):
            if name == "server" and metrics.step == 2:
                for thread in floods:
                    thread.start()
            time.sleep(0.1)

        return on_step

    before = threading.active_count()
    with caplog.at_level(logging.INFO):
        try:
            found = train(agreed, problem, on_step=begin)
        finally:
            over.set()
            for thread in floods:
                thread.join(20.0)
            for connection in opened:
                connection.close()
    ends_as_undisturbed(found, problem, steps)
    assert len(opened) > 20 and len(caplog.records) < 120
    soon(lambda: threading.active_count() < before + 10)


# Files.

STATE = PartyState({"w": jnp.ones(3)}, {}, (), {}, jax.random.key(0), jnp.int32(0))


def test_a_store_waits_for_files_that_come_back(tmp_path, caplog):
    store = CheckpointStore(tmp_path, "lab", "s", STATE, 20.0)
    store.save(STATE)
    for work in (
        lambda: store.save(STATE._replace(step=jnp.int32(1))),
        lambda: store.restore(0),
        lambda: store.finish(0),
        lambda: store.remember(()),
        lambda: store.discard_after(0),
    ):
        caplog.clear()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        back = threading.Timer(
            0.3, resource.setrlimit, (resource.RLIMIT_NOFILE, (soft, hard))
        )
        back.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            store.prune_before(0)  # looks for leftovers another time
            work()
        finally:
            back.join()
        assert len(caplog.records) == 1 and "no more files" in caplog.text
    assert store.steps == (0,) and store.done(0) == []
    store.close()


def test_saves_for_which_there_are_no_files_end_no_run(tmp_path, monkeypatch, caplog):
    """As many in a row as there are, while those of a full disk are as fatal as ever."""
    monkeypatch.setattr(scarce_files, "_FIRST", 0.01)
    problem, real, lacking = small("pair"), np.savez, []

    def savez(file, **arrays):
        if "client" in file.name and any(f"{s:012}" in file.name for s in (1, 2)):
            lacking.append(file.name)
            raise OSError(errno.ENFILE, "Too many open files")
        real(file, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    agreed = agreed_for(problem, steps=4, checkpoint=1, patience=2.0)
    found = checked(train(agreed, problem, checkpoint=lambda p: tmp_path / p))
    assert isinstance(found["client"], party.Result)
    ends_as_undisturbed(found, problem, 4)
    assert len(lacking) > 4
    assert sum("is tried again" in m for m in caplog.messages) == 2


def test_a_whole_checkpoint_is_not_left_aside_for_lack_of_files(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, "lab", "s", STATE)
    store.save(STATE)
    store.close()

    def lack(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", lack)
    with pytest.raises(ValueError, match="Too many open files"):
        CheckpointStore(tmp_path, "lab", "s", STATE, 0.1)
