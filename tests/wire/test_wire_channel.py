"""One suite for all channels: frames arrive whole, in order, and no faster than they are read."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from jsplit.wire import certs
from jsplit.wire.certs import PlaintextWithoutIdentity, authority, host_of, uri_of
from jsplit.wire.channel import CHUNK, Ends
from jsplit.wire.codec import CodecError, Head, frame_of
from jsplit.wire.errors import NotYet
from jsplit.wire.listening import unusable
from jsplit.wire.memory import MemoryTransport, memory_pair
from jsplit.wire.pipe import Closed
from jsplit.wire.rpc import Grpc, dial
from jsplit.wire.transport import Pulse

SOON, LONG = 0.05, 20.0
LIMIT = 16 << 20
PARTIES = ("lab", "server", "Klinik N\u00fcrnberg")


@pytest.fixture(scope="module")
def trust():
    return authority(PARTIES)


@contextmanager
def listening(mine, allowed=PARTIES, key=uri_of, transport=None):
    """A party that listens, and the channels that come."""
    transport = transport or Grpc()
    channels: queue.Queue = queue.Queue()

    def met(party, opened):
        made = opened(lambda head: None)
        ended = threading.Event()
        close = made.close
        made.close = lambda reason="", wait=0.0: (close(reason, wait), ended.set())
        channels.put(made)
        ended.wait(10 * LONG)

    known = {key(p): p for p in allowed}
    listener = transport.listen("localhost:0", mine, known, met, LIMIT)
    try:
        # A hub has no ports: what it listens at is what is dialled.
        yield f"localhost:{getattr(listener, 'port', 0)}", channels
    finally:
        while not channels.empty():
            channels.get().close()
        listener.close(0.2)


@contextmanager
def connected(kind, trust):
    """Two ends of a channel: that of `lab`, and that of `server`."""
    if kind == "memory pair":
        yield memory_pair("lab", "server", LIMIT)
        return
    secure = kind in ("mtls", "memory mtls")
    transport = MemoryTransport() if kind.startswith("memory") else Grpc()
    lab, server = (
        trust[p] if secure else PlaintextWithoutIdentity(p) for p in ("lab", "server")
    )
    key = uri_of if secure else str
    with listening(server, key=key, transport=transport) as (address, channels):
        there = transport.dial(
            address, "server", lab, LIMIT, lambda head: None, timeout=LONG
        )
        here = channels.get(timeout=LONG)
        yield there, here
        there.close()
        here.close()


KINDS = ["memory pair", "memory", "memory mtls", "mtls", "plaintext"]


@pytest.fixture(params=KINDS)
def ends(request, trust):
    with connected(request.param, trust) as made:
        yield made


def numbered(n, size=1):
    return frame_of(Head("activation", step=n), [np.full(size, n % 251, np.uint8)])


def test_each_end_names_the_other(ends):
    assert [e.peer for e in ends] == ["server", "lab"]


def test_frames_arrive_whole_and_in_order_both_ways(ends):
    a, b = ends
    for n in range(50):
        a.send(numbered(n), LONG)
        assert (got := b.receive(LONG)).head.step == n and got.arrays[0][0] == n
        b.send(numbered(n + 1), LONG)
        assert a.receive(LONG).head.step == n + 1


@pytest.mark.parametrize("size", [0, 1, CHUNK - 112, CHUNK - 111, 5_000_000])
def test_a_frame_of_any_size_arrives(ends, size):
    a, b = ends
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    sender = threading.Thread(
        target=a.send, args=(frame_of(Head("cotangent"), [data]), LONG)
    )
    sender.start()
    assert (b.receive(LONG).arrays[0] == data).all()
    sender.join(LONG)


def test_both_can_send_at_once(ends):
    got: dict = {}

    def talk(end, number):
        sender = threading.Thread(
            target=lambda: [end.send(numbered(n, 300_000), LONG) for n in range(20)]
        )
        sender.start()
        got[number] = [end.receive(LONG).head.step for _ in range(20)]
        sender.join(LONG)

    threads = [
        threading.Thread(target=talk, args=(end, i)) for i, end in enumerate(ends)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(LONG)
    assert got == {0: list(range(20)), 1: list(range(20))}


def test_nothing_to_receive_is_a_timeout_after_which_all_goes_on(ends):
    a, b = ends
    with pytest.raises(TimeoutError):
        b.receive(SOON)
    a.send(numbered(3), LONG)
    assert b.receive(LONG).head.step == 3


def test_a_peer_that_does_not_read_stops_the_sender(ends):
    a, b = ends
    sent = 0
    with pytest.raises((TimeoutError, Closed)):
        for n in range(200):
            a.send(numbered(n, 1 << 20), 1.0)
            sent += 1
    assert sent < 32  # of 200: what the pipes and the transport's windows take


def test_a_closed_channel_says_so_on_both_sides_and_hands_over_what_had_come(ends):
    a, b = ends
    a.send(numbered(1), LONG)
    assert b.receive(LONG).head.step == 1
    a.close("done")
    with pytest.raises(Closed):
        a.send(numbered(2), LONG)
    with pytest.raises(Closed):
        b.receive(LONG)
    with pytest.raises(Closed):
        a.receive(LONG)


def test_who_closes_waits_until_what_it_sent_went_out_and_no_longer_though_it_reads_no_more(
    ends,
):
    a, b = ends
    going, took = threading.Event(), []

    def push():
        with suppress(Closed, TimeoutError):
            for n in range(40):
                b.send(numbered(n, 1 << 20), LONG)
                going.set()

    def close():
        began = time.monotonic()
        a.close("done", LONG)
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=run) for run in (push, close)]
    threads[0].start()
    assert going.wait(LONG)
    a.send(numbered(1), LONG)
    time.sleep(0.3)  # until nothing more can come
    threads[1].start()
    assert b.receive(LONG).head.step == 1
    for t in threads:
        t.join(LONG)
    assert took[0] < LONG / 2


def test_who_closes_waits_no_longer_than_it_says():
    a, _ = memory_pair("lab", "server")
    a.send(numbered(1), LONG)
    began = time.monotonic()
    a.close("done", 0.2)
    assert 0.2 <= time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("kind", ["memory pair", "memory", "mtls"])
def test_bytes_that_are_no_frame_close_the_channel(kind, trust):
    with connected(kind, trust) as (a, b):
        assert isinstance(a, Ends)  # and lets a test put bytes that no encoder makes
        a.outward.put(b"no frame" * 20, LONG)
        with pytest.raises(CodecError, match="begins with"):
            b.receive(LONG)
        with pytest.raises(Closed):
            a.receive(LONG)


def test_a_frame_that_is_not_wanted_closes_the_channel_before_it_is_read():
    def refuse(head):
        raise CodecError(f"not {head.kind}")

    a, b = memory_pair("lab", "server", accept=(refuse, refuse))
    a.send(numbered(0), LONG)
    with pytest.raises(CodecError, match="not activation"):
        b.receive(LONG)


@contextmanager
def slow_way(port, rate):
    """A port that leads to another, by a way that holds little and takes `rate` bytes a second."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    server.bind(("127.0.0.1", 0))
    server.listen()

    def pump(a, b, rate):
        with suppress(OSError):
            while data := a.recv(1 << 14):
                b.sendall(data)
                time.sleep(len(data) / rate if rate else 0)
        for s in (a, b):
            with suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def lead():
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for given in ((near, far, rate), (far, near, 0)):
                    threading.Thread(target=pump, args=given, daemon=True).start()

    threading.Thread(target=lead, daemon=True).start()
    yield f"localhost:{server.getsockname()[1]}"
    server.close()


@pytest.mark.slow
def test_a_frame_that_takes_longer_than_the_silence_that_is_asked_about_arrives(trust):
    """The question whether anybody is there waits behind it."""
    with (
        listening(trust["server"]) as (address, channels),
        slow_way(int(address.rpartition(":")[2]), 1e5) as by,
    ):
        a = dial(by, "server", trust["lab"], LIMIT, timeout=LONG)
        b = channels.get(timeout=LONG)
        sender = threading.Thread(target=a.send, args=(numbered(7, 5_000_000), 120.0))
        sender.start()
        assert b.receive(120.0).head.step == 7
        sender.join(LONG)
        a.close()
        b.close()


# Trust. What is refused, is refused by the side that must, and told there.

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    "why",
    [
        "another authority",
        "an expired certificate",
        "one that is not valid yet",
        "another party's certificate",
        "none",
    ],
)
def test_whom_the_listener_does_not_know_is_refused_and_it_says_so(
    why, trust, caplog, capfd
):
    now = datetime.now(UTC)
    mine = {
        "another authority": authority(["lab"])["lab"],
        "an expired certificate": trust["lab"],
        "one that is not valid yet": trust["lab"],
        "another party's certificate": trust["Klinik N\u00fcrnberg"],
        "none": PlaintextWithoutIdentity("lab"),
    }[why]
    known = trust
    if "valid" in why or "expired" in why:
        known = {"server": trust["server"]}
        times = (
            {"start": now - 9 * DAY} if "expired" in why else {"start": now + 9 * DAY}
        )
        mine = authority(["lab"], 1, **times)["lab"]
        server = certs.Credentials(
            trust["server"].certificate, trust["server"].key, mine.authority
        )
        known = {"server": server}
        mine = certs.Credentials(mine.certificate, mine.key, trust["server"].authority)
    if why == "another authority":
        mine = certs.Credentials(mine.certificate, mine.key, trust["server"].authority)
    with (
        listening(known["server"], allowed=("lab",)) as (address, channels),
        caplog.at_level(logging.WARNING),
    ):
        with pytest.raises(Closed, match="broke|no connection"):
            made = dial(address, "server", mine, LIMIT, timeout=2.0)
            made.receive(
                2.0
            )  # TLS 1.3: the client may hear of the refusal only with the first word
        assert channels.empty()
    said = caplog.text + capfd.readouterr().err
    if why != "another party's certificate":
        assert (
            "Handshake failed" in said
        )  # by gRPC itself, on the standard error of the side that listens
    else:
        assert (
            "refused a connection" in said
            and uri_of("Klinik N\u00fcrnberg") in said
            and "allow-list" in said
        )


def anything(head):
    """Accept every head."""


@pytest.fixture(params=[Grpc, MemoryTransport])
def transport(request):
    return request.param()


def test_a_party_that_dials_is_not_deceived_by_another_that_listens(trust, transport):
    """The certificate is good, but of another party."""
    lab, other = trust["lab"], "Klinik N\u00fcrnberg"
    with listening(trust[other], transport=transport) as (address, channels):
        with pytest.raises(Closed, match="Hostname|UNAVAILABLE|no connection"):
            transport.dial(address, "server", lab, LIMIT, anything, timeout=3.0)
        transport.dial(address, other, lab, LIMIT, anything, timeout=LONG).close()
        assert channels.get(timeout=LONG).peer == "lab"


def test_every_head_is_judged_before_its_arrays_are_read(trust, transport):
    """The protocol counts on it: it looks at no head a second time."""

    def refuse(head):
        raise CodecError(f"not {head.kind}")

    with listening(trust["server"], transport=transport) as (address, channels):
        there = transport.dial(
            address, "server", trust["lab"], LIMIT, refuse, timeout=LONG
        )
        channels.get(timeout=LONG).send(numbered(0, 1 << 20), LONG)
        with pytest.raises(CodecError, match="not activation"):
            there.receive(LONG)
        with pytest.raises(Closed):
            there.send(numbered(1), LONG)


def test_who_is_not_on_the_allow_list_is_refused_and_it_is_logged(
    trust, transport, caplog
):
    server, lab = trust["server"], trust["lab"]
    with (
        listening(server, allowed=("server",), transport=transport) as (address, _),
        caplog.at_level(logging.WARNING),
        pytest.raises(Closed, match="broke"),
    ):
        made = transport.dial(address, "server", lab, LIMIT, anything, timeout=2.0)
        made.receive(2.0)
    assert f'"{uri_of("lab")}" is not on the allow-list' in caplog.text


def test_no_one_there_is_said_within_the_deadline(transport):
    lab = PlaintextWithoutIdentity("lab")
    with pytest.raises(Closed, match="`server`"):
        transport.dial("localhost:1", "server", lab, LIMIT, anything, timeout=3.0)


def test_an_address_that_is_taken_is_refused(trust, transport):
    server = trust["server"]
    with (
        listening(server, transport=transport) as (address, _),
        pytest.raises(ValueError, match="cannot be listened at") as error,
    ):
        transport.listen(address, server, {}, lambda *_: None, LIMIT, Pulse())
    # A process that ends may still have it; in one process there is none to wait for.
    assert isinstance(error.value, NotYet) or isinstance(transport, MemoryTransport)


@pytest.mark.parametrize(
    ("address", "passes"),
    [
        ("192.0.2.1:8476", True),
        ("[::1", False),
        ("localhost:x", False),
        ("h:-1", False),
    ],
)
def test_an_address_that_a_machine_does_not_have_yet_may_come(address, passes):
    assert isinstance(unusable(address, "."), NotYet) == passes


def test_a_listener_that_is_closed_twice_leaves_its_successor_the_address():
    hub, server = MemoryTransport(), PlaintextWithoutIdentity("server")
    listen = lambda: hub.listen("a:1", server, {}, lambda *_: None, LIMIT)  # noqa: E731
    old = listen()
    old.close()
    listen()
    old.close()
    with pytest.raises(ValueError, match="somebody does already"):
        listen()


def test_every_party_has_a_host_name_and_uri_of_its_own():
    names = [
        "lab",
        "Lab",
        "x-lab",
        "a b",
        "a%20b",
        "\u533b\u9662",
        "l" * 50,
        "l" * 51,
        "-",
        "a-",
    ]
    assert (
        len({host_of(n) for n in names})
        == len(names)
        == len({uri_of(n) for n in names})
    )
    assert all(len(host_of(n).split(".")[0]) <= 63 for n in names)


def test_certificates_are_written_once_and_keys_for_their_owner_alone(tmp_path):
    files = certs.certs(tmp_path / "certs", ["lab", "St. Mary's/3"])
    assert [f.name for f in files] == [
        "ca.crt",
        "lab.crt",
        "lab.key",
        "St.%20Mary%27s%2F3.crt",
        "St.%20Mary%27s%2F3.key",
    ]
    assert {f.stat().st_mode & 0o777 for f in files if f.suffix == ".key"} == {0o600}
    assert b"PRIVATE" in certs.read(tmp_path / "certs", "St. Mary's/3").key
    assert "PRIVATE" not in repr(certs.read(tmp_path / "certs", "lab"))
    with pytest.raises(ValueError, match="has a ca.crt already"):
        certs.certs(tmp_path / "certs", ["lab"])
    with pytest.raises(ValueError, match="there is no file .*server.crt"):
        certs.read(tmp_path / "certs", "server")


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("lab.crt", b"junk", "lab.crt holds no certificate in PEM"),
        ("ca.crt", b"", "ca.crt holds no certificate in PEM"),
        ("lab.key", b"junk", "lab.key holds no private key in PEM"),
        (
            "lab.key",
            "another",
            "lab.key is not the key of the certificate in .*lab.crt",
        ),
        (
            "lab.key",
            "ed25519",
            "lab.key holds a Ed25519PrivateKey; TLS here takes keys on the curve P-256, and RSA",
        ),
        ("lab.crt", "expired", "lab.crt is valid from .* to .*, and now it is"),
    ],
)
def test_credentials_that_cannot_be_used_are_refused_by_the_name_of_their_file(
    tmp_path, file, data, message
):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    certs.certs(tmp_path, ["lab"])
    pem = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if data == "expired":
        old = certs.authority(["lab"], 1, start=datetime.now(UTC) - timedelta(days=9))[
            "lab"
        ]
        (tmp_path / "lab.key").write_bytes(old.key)
        data = old.certificate
    elif data == "another":
        data = certs.authority(["lab"])["lab"].key
    elif data == "ed25519":
        data = ed25519.Ed25519PrivateKey.generate().private_bytes(*pem)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        certs.read(tmp_path, "lab")


def test_nobody_or_one_twice_gets_no_certificates(tmp_path):
    for wrong in ([], ["a", "a"], [""]):
        with pytest.raises(ValueError, match="`parties` must name"):
            certs.certs(tmp_path, wrong)
