"""A listener's door: who is nobody takes no place for long, and no party that of another."""

from __future__ import annotations

import logging
import os
import resource
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest

from jsplit.wire import door, open_files, rpc_listener
from jsplit.wire.certs import PlaintextWithoutIdentity, authority, host_of, uri_of
from jsplit.wire.codec import Head, frame_of
from jsplit.wire.door import AT_A_TIME, Door
from jsplit.wire.memory import MemoryTransport
from jsplit.wire.pipe import Closed, Denied
from jsplit.wire.rpc import Grpc

LIMIT, LONG = 16 << 20, 20.0
PARTIES = ("lab", "clinic", "server")


def anything(head):
    """Accept every head."""


@pytest.fixture(scope="module")
def trust():
    return authority(PARTIES)


@pytest.fixture(params=[Grpc, MemoryTransport])
def transport(request):
    return request.param()


@contextmanager
def listening(mine, allowed=("lab", "clinic"), key=uri_of, transport=None, met=None):
    """A party that listens, its address, and what lets its connections end."""
    end = threading.Event()

    def stay(party, opened):
        opened(anything)
        end.wait(LONG)

    known = {key(p): p for p in allowed}
    listener = (transport or Grpc()).listen(
        "127.0.0.1:0", mine, known, met or stay, LIMIT
    )
    try:
        yield listener, f"127.0.0.1:{getattr(listener, 'port', 0)}", end
    finally:
        end.set()
        listener.close(0.5)


def soon(there, seconds=10.0):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def numbered(size):
    return frame_of(Head("activation"), [np.zeros(size, np.uint8)])


def files() -> int:
    return len(os.listdir("/dev/fd"))


@contextmanager
def knocking(address: str, times: int, first: bytes = b""):
    """So many connections on which nothing is said after the first words."""
    made = [silent(address, first) for _ in range(times)]
    try:
        yield made
    finally:
        for end in made:
            end.close()


def is_over(end: socket.socket) -> bool:
    """Whether the other side has hung up."""
    end.setblocking(False)
    try:
        while end.recv(1 << 12):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return True


def silent(address: str, first: bytes = b"") -> socket.socket:
    """A connection on which nothing is said after the first words."""
    host, _, port = address.rpartition(":")
    made = socket.create_connection((host, int(port)))
    # Who is hung up on at once cannot say anything.
    with suppress(OSError):
        made.sendall(first)
    return made


def hello_of_tls() -> bytes:
    """What TLS says first."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="lab").do_handshake()
    return out.read()


def shown_and_silent(address: str, mine, folder) -> ssl.SSLSocket:
    """A connection with a certificate, on which no call is made."""
    for name in ("certificate", "key", "authority"):
        (folder / name).write_bytes(getattr(mine, name))
    context = ssl.create_default_context(cafile=folder / "authority")
    context.load_cert_chain(folder / "certificate", folder / "key")
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    made = context.wrap_socket(silent(address))
    # The preface of HTTP/2, and settings that are none.
    made.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, *[0] * 5]))
    return made


# Who is nobody.


@pytest.mark.parametrize("first", ["nothing", "half a handshake", "garbage", "a call"])
def test_who_shows_no_certificate_in_time_is_hung_up_on(first, trust, monkeypatch):
    monkeypatch.setattr(rpc_listener, "_HANDSHAKE", 0.5)
    said = {
        "nothing": b"",
        "half a handshake": hello_of_tls()[:100],
        "garbage": b"\x16\x03\x01\x02\x00" + os.urandom(64),
        "a call": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }[first]
    with listening(trust["server"]) as (_, address, _):
        before = files()
        with knocking(address, 20, said) as ends:
            soon(lambda: all(map(is_over, ends)))
        soon(lambda: files() <= before)


def test_who_shows_a_certificate_and_says_nothing_is_hung_up_on(
    trust, monkeypatch, tmp_path
):
    monkeypatch.setattr(rpc_listener, "_HANDSHAKE", 1.0)
    with listening(trust["server"]) as (_, address, _):
        with shown_and_silent(address, trust["lab"], tmp_path) as end:
            soon(lambda: is_over(end))


def test_those_that_say_nothing_have_a_bound_and_a_party_gets_in_after_their_time(
    trust, monkeypatch
):
    monkeypatch.setattr(rpc_listener, "_HANDSHAKE", 1.0)
    monkeypatch.setattr(rpc_listener, "_MOST", 1)
    with listening(trust["server"]) as (_, address, _):
        before = files()
        with knocking(address, 150) as ends:
            room = 2 * AT_A_TIME * 2 + 16
            soon(lambda: sum(not is_over(end) for end in ends) <= room, 0.9)
            # Of one that is taken both ends are files of this process.
            assert files() - before <= len(ends) + room + 10

            def gets_in():
                # As a party does it: who finds no place dials again.
                with suppress(Closed):
                    Grpc().dial(address, "server", trust["lab"], LIMIT).close()
                    return True

            soon(gets_in)


def test_a_listener_takes_half_of_the_files_at_most_but_all_that_it_knows(monkeypatch):
    monkeypatch.setattr(rpc_listener, "most_open_files", lambda: 256)
    assert rpc_listener._most_connections(2) == 128
    assert rpc_listener._most_connections(100) == 2 * AT_A_TIME * 100 + 16
    monkeypatch.setattr(rpc_listener, "most_open_files", lambda: 1 << 20)
    assert rpc_listener._most_connections(2) == rpc_listener._MOST


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_lets_it(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files() + 64, hard))
        endless = hard == resource.RLIM_INFINITY
        raised = open_files.raise_limit()
        assert raised == (8192 if endless else min(hard, 8192)) == open_files.limit()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 8192))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert open_files.raise_limit() == 64


# Who is turned away.


def counted(every=0.001, times=9130, kinds=1):
    """A door at which somebody knocks so often, `every` seconds apart."""
    now = [0.0]
    made = Door({"uri:lab": "lab"}, lambda: now[0])
    for n in range(times):
        now[0] += every
        with pytest.raises(Closed, match="not on the allow-list"):
            made.enter([f"uri:{n % kinds}"])
    return made


@pytest.mark.parametrize(
    ("every", "kinds", "lines"),
    [(0.001, 1, 2), (0.01, 1, 11), (0.001, 5000, 17)],
)
def test_refusals_cost_a_line_now_and_then_and_their_total_is_told(
    every, kinds, lines, caplog
):
    made = counted(every, kinds=kinds)
    made.close()
    made.close()
    assert len(caplog.records) == lines
    assert "refused 9130 connections in all" in caplog.messages[-1]
    if every == 0.01:
        assert caplog.messages[1].startswith("refused 1000 more connections in 10 s: ")
    assert len(made.refused) <= door._KNOWN + 1


def test_one_refusal_is_told_once(caplog):
    counted(times=1).close()
    assert caplog.messages == [
        'refused a connection from here: "uri:0" is not on the allow-list'
    ]


def test_what_an_outsider_shows_is_escaped_and_cut(caplog):
    made = Door({})
    with pytest.raises(Closed) as found:
        made.enter(["a\nERROR all is lost\x1b[31m\u202e" + "x" * 100_000] * 1000)
    for text in (str(found.value), caplog.text.rstrip("\n")):
        assert text.isprintable() and len(text) < 400 and r"\x0aERROR" in text


def test_refused_calls_are_counted_by_every_listener(trust, transport, caplog):
    with (
        listening(trust["server"], allowed=("clinic",), transport=transport) as (
            made,
            address,
            _,
        ),
        caplog.at_level(logging.WARNING),
    ):
        for _ in range(8):
            with pytest.raises(Closed, match="allow-list"):
                # Over gRPC a dialler may hear of it only with the first word.
                transport.dial(
                    address, "server", trust["lab"], LIMIT, anything, timeout=LONG
                ).receive(LONG)
        transport.dial(
            address, "server", trust["clinic"], LIMIT, anything, timeout=LONG
        ).close()
        assert made.door.refused.total() == 8
    told = [m for m in caplog.messages if "refused" in m]
    assert len(told) == 2 and "refused 8 connections in all" in told[1]


@contextmanager
def channel_of(mine, address):
    """What gRPC itself calls a listener by, with a certificate."""
    credentials = grpc.ssl_channel_credentials(
        mine.authority, mine.key, mine.certificate
    )
    named = [("grpc.ssl_target_name_override", host_of("server"))]
    named.append(("grpc.use_local_subchannel_pool", 1))
    with grpc.secure_channel(address, credentials, named) as channel:
        yield channel


def code_of(channel, path):
    with pytest.raises(grpc.RpcError) as found:
        list(channel.stream_stream(path)(iter([]), timeout=LONG))
    return found.value.code()


def test_a_call_of_no_method_here_is_counted_and_told_once(trust, caplog):
    with (
        listening(trust["server"]) as (made, address, _),
        channel_of(trust["lab"], address) as channel,
        caplog.at_level(logging.WARNING),
    ):
        for n in range(3):
            assert code_of(channel, f"/x/{n}") == grpc.StatusCode.UNIMPLEMENTED
        assert made.door.refused.total() == 3 and len(made.door.refused) == 1
        assert caplog.text.count(f'"{uri_of("lab")}" calls an unknown method') == 1


def test_calls_that_are_refused_keep_no_connection_and_one_that_was_let_in_stays(
    trust, monkeypatch
):
    monkeypatch.setattr(rpc_listener, "_HANDSHAKE", 1.0)
    there, over, origins = [], threading.Event(), set()
    refusal = Door.refusal

    def noted(self, kind, origin=""):
        origins.add(origin)
        return refusal(self, kind, origin)

    def stay(party, opened):
        there.append(opened(anything))
        over.wait(LONG)

    monkeypatch.setattr(Door, "refusal", noted)
    known = ("clinic",)
    with listening(trust["server"], known, met=stay) as (_, address, _):
        clinic = Grpc().dial(address, "server", trust["clinic"], LIMIT, anything)
        with channel_of(trust["lab"], address) as channel:
            path = f"/{rpc_listener.SERVICE}/{rpc_listener.METHOD}"

            def has_dialled_again():
                # More often than a connection may be idle.
                code_of(channel, path)
                time.sleep(0.2)
                return len(origins) > 1

            soon(has_dialled_again)
        clinic.send(numbered(3), LONG)
        assert there[0].receive(LONG).arrays[0].size == 3
        there[0].send(numbered(4), LONG)
        assert clinic.receive(LONG).arrays[0].size == 4
        over.set()
        clinic.close()


# One party among others.


def test_one_party_takes_its_own_places_and_no_others(trust, transport):
    with listening(trust["server"], transport=transport) as (made, address, end):
        dial = lambda p: transport.dial(  # noqa: E731
            address, "server", trust[p], LIMIT, anything, timeout=LONG
        )
        taken = [dial("lab") for _ in range(AT_A_TIME)]
        for _ in range(20):
            with pytest.raises(Closed, match="`lab` has 4 connections already") as e:
                # Over gRPC a dialler may hear of it only with the first word.
                dial("lab").receive(LONG)
            assert not isinstance(e.value, Denied)  # soon it may have some again
        assert len(made.door.inside["lab"]) == AT_A_TIME
        dial("clinic").close()
        for connection in taken:
            connection.close()
        end.set()
        soon(lambda: not made.door.inside["lab"])
        # Else it would be over before it is there.
        end.clear()
        dial("lab").close()


def test_many_streams_on_one_connection_are_one(trust):
    """The others wait at the peer that asks for them, and take nothing here."""
    lab = trust["lab"]
    credentials = grpc.ssl_channel_credentials(lab.authority, lab.key, lab.certificate)
    named = [("grpc.ssl_target_name_override", host_of("server"))]
    with listening(trust["server"]) as (made, address, _):
        with grpc.secure_channel(address, credentials, named) as channel:
            path = f"/{rpc_listener.SERVICE}/{rpc_listener.METHOD}"
            stop = threading.Event()
            asks = lambda: iter(stop.wait, True)  # noqa: E731
            calls = [channel.stream_stream(path)(asks()) for _ in range(100)]
            soon(lambda: made.door.inside["lab"])
            time.sleep(0.3)
            assert len(made.door.inside["lab"]) == 1 and not made.door.refused
            Grpc().dial(
                address, "server", trust["clinic"], LIMIT, anything, timeout=LONG
            ).close()
            stop.set()
            for call in calls:
                call.cancel()


def test_a_peer_that_reads_nothing_gives_its_place_back(trust, monkeypatch):
    monkeypatch.setattr(rpc_listener, "_ENDING", 0.2)

    def pour(party, opened):
        channel = opened(anything)
        with suppress(TimeoutError, Closed):
            while True:
                channel.send(numbered(1 << 20), 0.3)

    with listening(trust["server"], met=pour) as (made, address, _):
        deaf = Grpc().dial(
            address, "server", trust["lab"], LIMIT, anything, timeout=LONG
        )
        soon(lambda: made.door.inside["lab"])
        soon(lambda: not made.door.inside["lab"])
        deaf.close()


def test_who_is_hung_up_on_hears_why(transport):
    def hang_up(party, opened):
        opened(anything).close("`lab` was\nhere before.")

    server, lab = map(PlaintextWithoutIdentity, ("server", "lab"))
    with listening(server, key=str, transport=transport, met=hang_up) as (
        _,
        address,
        _,
    ):
        with pytest.raises(Closed, match="here before"):
            made = transport.dial(address, "server", lab, LIMIT, anything, timeout=LONG)
            made.receive(LONG)


def test_nobody_waits_until_a_connection_that_broke_has_taken_what_was_sent(trust):
    """Else every connection that is cut would hold its threads for as long."""
    waited = []

    def send(party, opened):
        channel = opened(anything)
        with suppress(TimeoutError, Closed):
            while True:
                channel.send(numbered(1 << 20), 0.2)
        cut.set()
        began = time.monotonic()
        channel.close("it is over.", LONG)
        waited.append(time.monotonic() - began)

    cut = threading.Event()
    with listening(trust["server"], met=send) as (_, address, _):
        deaf = Grpc().dial(
            address, "server", trust["lab"], LIMIT, anything, timeout=LONG
        )
        assert cut.wait(LONG)
        deaf.close()
        soon(lambda: waited)
        assert waited[0] < LONG / 2
