"""Whom a certificate makes its party, for how long, and what in it is refused."""

from __future__ import annotations

import logging
import os
import queue
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from jsplit.wire import certs, proof, signatures
from jsplit.wire.certs import Credentials, authority, host_of, uri_of
from jsplit.wire.credential_files import read
from jsplit.wire.denied import denied_in
from jsplit.wire.errors import NotYet, Refused, RemoteProtocolError
from jsplit.wire.key_exchange import KeyExchange
from jsplit.wire.memory import MemoryTransport
from jsplit.wire.pipe import Closed, Denied
from jsplit.wire.rpc import Grpc
from jsplit.wire.rpc_listener import Listener
from jsplit.wire.seal import Sealer
from jsplit.wire.signatures import verified_uris
from jsplit.wire.transport import Pulse

LIMIT, LONG = 1 << 20, 20.0
TRANSPORTS = pytest.mark.parametrize(
    "transport", [Grpc(), MemoryTransport()], ids=lambda t: type(t).__name__
)


@contextmanager
def listening(transport, trust, allowed=("lab",)):
    """A listener; gives its address, and a queue of the names of those that come."""
    met: queue.Queue[str] = queue.Queue()
    over = threading.Event()

    def meet(party, opened):
        opened(lambda head: None)
        met.put(party)
        over.wait(LONG)

    listener = transport.listen(
        "localhost:0", trust, {uri_of(p): p for p in allowed}, meet, LIMIT
    )
    try:
        yield f"localhost:{getattr(listener, 'port', 0)}", met
    finally:
        over.set()
        listener.close(0.1)


def connect(transport, address, trust, peer="server", **given):
    accept, pulse = (lambda head: None), Pulse()
    return transport.dial(
        address, peer, trust, LIMIT, accept, timeout=LONG, pulse=pulse, **given
    )


def serial(own: Credentials) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificates(own.certificate)[0].serial_number


def write(folder, made, *names):
    """The files of credentials, as `jsplit certs` writes them."""
    for name in names or made:
        own = made[name]
        (folder / "ca.crt").write_bytes(own.authority)
        for data, file in ((own.key, f"{name}.key"), (own.certificate, f"{name}.crt")):
            handle = os.open(
                folder / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
            )
            os.write(handle, data)
            os.close(handle)


@TRANSPORTS
def test_who_listens_with_the_host_name_of_another_is_refused_by_its_uri(
    transport, monkeypatch
):
    # All have one host name, as those behind one door of an institution have.
    monkeypatch.setattr(certs, "host_of", lambda party: host_of("server"))
    made = authority(["lab", "server", "mallory"])
    with listening(transport, made["mallory"]) as (address, _):
        with pytest.raises(Closed) as error:
            connect(transport, address, made["lab"])
        # In quotes: it has chosen its words, if the authority let it.
        assert f'"{uri_of("mallory")}"' in str(error.value)
        assert f"not {uri_of('server')}" in str(error.value)
        assert "\n" not in str(error.value)
        # The URI is the one that was agreed on, where that is another.
        connect(transport, address, made["lab"], identity=uri_of("mallory")).close()


def test_a_proof_that_another_has_passed_on_is_none():
    made = authority(["lab", "server", "mallory"])
    asked = proof.question()
    said = [(proof.QUESTION, asked)]
    lab, server = made["lab"], made["server"]
    # Mallory asks the server what the lab has asked it, and gives the answer as its own.
    for shown in (
        proof.answer(server, said, made["mallory"].certificate),
        proof.answer(server, [(proof.QUESTION, proof.question())], lab.certificate),
        proof.answer(made["mallory"], said, lab.certificate)[1:],
        [
            (proof.CERTIFICATE, server.certificate),
            *proof.answer(made["mallory"], said, lab.certificate)[1:],
        ],
        [(proof.CERTIFICATE, b"no"), (proof.SIGNATURE, b"no")],
        (),
    ):
        with pytest.raises(RemoteProtocolError):
            proof.check(lab, uri_of("server"), asked, shown)
    shown = proof.answer(server, said, lab.certificate)
    proof.check(lab, uri_of("server"), asked, shown)
    other = authority(["server"])["server"]
    with pytest.raises(RemoteProtocolError, match="is not accepted"):
        shown = proof.answer(other, said, lab.certificate)
        proof.check(lab, uri_of("server"), asked, shown)
    assert proof.answer(server, (), lab.certificate) == ()


def test_where_tls_is_enough_a_certificate_needs_no_more_and_no_party_is_an_authority():
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.verification import VerificationError

    now, keys = (
        datetime.now(UTC),
        [ec.generate_private_key(ec.SECP256R1()) for _ in "abc"],
    )
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in "abc"
    ]

    def issued(of, by, *extensions):
        made = x509.CertificateBuilder().subject_name(names[of]).issuer_name(names[by])
        made = made.public_key(keys[of].public_key()).serial_number(9)
        made = made.not_valid_before(now - timedelta(days=1))
        made = made.not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        return made.sign(keys[by], hashes.SHA256())

    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("a://b")])
    top = issued(0, 0, x509.BasicConstraints(True, None))
    party, of_party = issued(1, 0, uri), issued(2, 1, uri)
    none = issued(1, 0, uri, x509.BasicConstraints(False, None))
    usage = x509.KeyUsage(True, *[False] * 8)
    signs_none = issued(1, 0, uri, x509.BasicConstraints(True, None), usage)
    pem = top.public_bytes(serialization.Encoding.PEM)
    assert verified_uris([party], pem, strict=False) == ["a://b"]
    for chain, strict in (
        ([party], True),
        ([of_party, party], False),
        ([of_party, none], False),
        ([of_party, signs_none], False),
    ):
        with pytest.raises(VerificationError):
            verified_uris(chain, pem, strict=strict)


@TRANSPORTS
def test_renewed_certificates_count_from_the_next_connection_on_without_a_restart(
    transport, tmp_path
):
    old, new = authority(["lab", "server"]), authority(["lab", "server"])
    write(tmp_path, old)
    lab, server = read(tmp_path, "lab"), read(tmp_path, "server")
    with listening(transport, server) as (address, met):
        connect(transport, address, lab.current()).close()
        assert met.get(timeout=LONG) == "lab"
        write(tmp_path, new)
        assert lab.current().certificate == new["lab"].certificate
        connect(transport, address, lab.current()).close()
        assert met.get(timeout=LONG) == "lab"
        if isinstance(transport, Grpc):  # the other one verifies none
            with pytest.raises(Closed):
                connect(transport, address, old["lab"])


def test_a_clock_that_is_not_set_and_half_a_renewed_pair_may_pass(tmp_path):
    now = datetime.now(UTC)
    for start in (now + timedelta(days=1), now - timedelta(days=2)):
        write(tmp_path, authority(["lab"], 1, start=start))
        with pytest.raises(NotYet, match="is valid from"):
            read(tmp_path, "lab")
    write(tmp_path, authority(["lab"]))
    (tmp_path / "lab.key").write_bytes(authority(["lab"])["lab"].key)
    with pytest.raises(NotYet, match="is not the key of"):
        read(tmp_path, "lab")


def test_what_is_half_written_leaves_what_was_read_before_and_is_said_once(
    tmp_path, caplog
):
    old, new = authority(["lab"])["lab"], authority(["lab"])["lab"]
    write(tmp_path, {"lab": old})
    own = read(tmp_path, "lab")
    assert own.current() is own
    for half in (b"", old.key[:50], new.key):
        caplog.clear()
        (tmp_path / "lab.key").write_bytes(half)
        with caplog.at_level(logging.WARNING):
            assert [own.current() for _ in range(3)] == [own] * 3
        assert len(caplog.records) == 1 and "lab.key" in caplog.text
    caplog.clear()
    (tmp_path / "lab.key").unlink()
    with caplog.at_level(logging.WARNING):
        assert own.current() == own == own.current() and len(caplog.records) == 1
    write(tmp_path, {"lab": new})
    assert own.current() == new


@pytest.mark.parametrize(
    ("life", "left", "warned"),
    [
        (30, 8, False),
        (30, 6.5, True),
        (1 / 24, 0.5 / 24, False),
        (1 / 24, 0.05 / 24, True),
    ],
)
def test_the_end_of_ones_own_certificate_is_warned_of_ahead_and_not_all_the_time(
    tmp_path, caplog, life, left, warned
):
    begin = datetime.now(UTC) - timedelta(days=life - left)
    write(tmp_path, authority(["lab"], life, start=begin))
    with caplog.at_level(logging.WARNING):
        own = read(tmp_path, "lab")
        for _ in range(3):
            own.current()
    files = [tmp_path / "lab.crt", tmp_path / "ca.crt"] if warned else []
    assert [r.args[0] for r in caplog.records if r.args] == files
    end = f"{begin + timedelta(days=life):%Y-%m-%d %H:%M} UTC"
    assert not warned or f"lab.crt is valid until {end}" in caplog.text


def test_only_who_shows_that_it_listens_there_is_believed_that_it_lets_nobody_in(
    monkeypatch,
):
    """By a denial a party ends for good; a stranger at the address could else end it."""
    monkeypatch.setattr(certs, "host_of", lambda party: host_of("server"))
    made = authority(["lab", "server", "mallory"])
    for name, raised, words in (
        ("server", Denied, "PERMISSION_DENIED, "),
        ("mallory", Closed, "certificate names .*mallory"),
    ):
        with listening(Grpc(), made[name], ("clinic",)) as (address, _):
            with pytest.raises(Closed, match=words) as error:
                connect(Grpc(), address, made["lab"])
        assert type(error.value) is raised
    # One that shows nothing of itself.
    code = grpc.StatusCode.PERMISSION_DENIED
    monkeypatch.setattr(
        Listener, "deny", lambda self, context, why: context.abort(code, why)
    )
    with listening(Grpc(), made["server"], ("clinic",)) as (address, _):
        with pytest.raises(Closed, match="by one that did not show that it") as error:
            connect(Grpc(), address, made["lab"])
    assert type(error.value) is Closed


@TRANSPORTS
def test_a_denied_certificate_is_taken_neither_where_one_listens_nor_where_one_dials(
    transport, tmp_path, caplog
):
    made = authority(["lab", "clinic", "server"])
    write(tmp_path, made)
    deny = tmp_path / "deny"
    deny.write_text("# nobody yet\n")
    lab, server = (read(tmp_path, p, deny=deny) for p in ("lab", "server"))
    clinic = read(tmp_path, "clinic", deny=[serial(made["server"])])
    with listening(transport, server, ("lab", "clinic")) as (address, met):
        connect(transport, address, lab).close()
        assert met.get(timeout=LONG) == "lab"
        with pytest.raises(Closed, match=f"{serial(made['server']):#x}, is denied"):
            connect(transport, address, clinic)
        # Without a restart of anybody.
        deny.write_text(f"serial={serial(made['lab']):X}  # its laptop was stolen\n")
        with caplog.at_level(logging.WARNING), pytest.raises(Denied, match="is denied"):
            connect(transport, address, made["lab"])
        assert f"{serial(made['lab']):#x}, is denied" in caplog.text


def test_a_certificate_that_has_ended_lets_nobody_in_by_a_session_from_before(
    monkeypatch, caplog
):
    """TLS that resumes a session looks at no certificate: so the listener does."""
    made = authority(["lab", "server"])
    with listening(Grpc(), made["server"]) as (address, _):
        # As if it had ended since the handshake.
        monkeypatch.setattr(signatures, "_is_valid_now", lambda certificate: False)
        with pytest.raises(Closed, match="not valid now"):
            connect(Grpc(), address, made["lab"])
        assert "`lab`: its certificate is not valid now" in caplog.text


def test_a_listener_looks_at_the_life_of_a_certificate_and_of_its_authority():
    now, day = datetime.now(UTC), timedelta(days=1)
    made = authority(["lab", "server"])
    own, lab = made["server"], made["lab"].certificate
    ended = authority(["lab"], 1, start=now - 2 * day)["lab"]
    early = authority(["lab"], 1, start=now + day)["lab"]
    assert proof.why_refused(own, lab) is None
    for other in (ended, early):
        assert "its certificate is not" in (
            proof.why_refused(own, other.certificate) or ""
        )
    # All authorities of `authority` have one name. One that is valid is enough.
    both = Credentials(own.certificate, own.key, ended.authority + own.authority)
    assert proof.why_refused(both, lab) is None
    old = Credentials(own.certificate, own.key, ended.authority)
    assert "the authority of its" in (proof.why_refused(old, lab) or "")


def test_an_authority_that_others_can_write_or_replace_is_warned_of(tmp_path, caplog):
    folder = tmp_path / "certs"
    certs.certs(folder, ["lab"])
    read(folder, "lab")
    assert not caplog.records
    (folder / "ca.crt").chmod(0o666)
    folder.chmod(0o777)
    read(folder, "lab")
    told = [m for m in caplog.messages if "can be written by others" in m]
    assert [m.rpartition(" ")[2] for m in told] == [str(folder), f"{folder}/ca.crt"]
    # As secrets are mounted: others may put files in, and replace none.
    caplog.clear()
    (folder / "ca.crt").chmod(0o644)
    folder.chmod(0o1777)
    read(folder, "lab")
    assert not caplog.records


def test_a_denied_certificate_seals_nothing():
    made = authority(["lab", "server"])
    uris = [uri_of("lab"), uri_of("server")]

    def sealer(trust, me):
        return Sealer(
            KeyExchange(trust, ["lab", "server"], uris, b"r" * 32, me, 7), LIMIT
        )

    lab, server = made["lab"], made["server"]
    strict = Credentials(
        server.certificate, server.key, server.authority, frozenset({serial(lab)})
    )

    def met(trust):
        one, other = sealer(lab, 0), sealer(trust, 1)
        # What is signed is of both keys, so the other's must be heard first.
        one.meet(1, 7, other.offer(0))
        other.meet(0, 7, one.offer(1))
        return other.has(0)

    assert met(server)
    with pytest.raises(Refused, match="is denied"):
        met(strict)


def test_a_serial_number_is_denied_however_it_is_written(tmp_path):
    file = tmp_path / "deny"
    file.write_text("0x1f\n00:1F:aa # why\n\nserial=0A\nff\n25\n")
    assert denied_in(file) == {0x1F, 0x1FAA, 0x0A, 0xFF, 25, 0x25}
    file.write_text("0x1f\nnobody\n")
    with pytest.raises(ValueError, match=r"deny, line 2 must be a serial number"):
        denied_in(file)
    write(tmp_path, authority(["lab"]))
    for wrong in ([True], ["1f"], [-1]):
        with pytest.raises(
            ValueError, match="`deny` must be a file, or serial numbers"
        ):
            read(tmp_path, "lab", deny=wrong)
    with pytest.raises(ValueError, match="`deny` names .*none, and there is no such"):
        read(tmp_path, "lab", deny=tmp_path / "none")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_key_that_others_can_read_or_write_is_refused(tmp_path, mode, monkeypatch):
    certs.certs(tmp_path, ["lab"])
    key = tmp_path / "lab.key"
    read(tmp_path, "lab")
    # As it is for a user; of root a group may read, see below.
    stat = type(key).stat

    def of(uid):
        def found(self, **options):
            fields = list(stat(self, **options))
            fields[4] = uid
            return os.stat_result(fields)

        return found

    key.chmod(mode)
    monkeypatch.setattr(type(key), "stat", of(1000))
    with pytest.raises(
        ValueError, match=f"lab.key can be read .*{mode:04o}.*chmod 600"
    ):
        read(tmp_path, "lab")
    # As a secret is mounted into a container.
    monkeypatch.setattr(type(key), "stat", of(0))
    if mode == 0o640:
        read(tmp_path, "lab")
    else:
        with pytest.raises(ValueError, match="chmod 600"):
            read(tmp_path, "lab")


def test_making_certificates_writes_over_none(tmp_path):
    files = certs.certs(tmp_path, ["ca", "CA", "lab"])
    assert len({f.name.lower() for f in files}) == len(files)
    assert (tmp_path / "ca.crt").read_bytes() == read(tmp_path, "ca").authority
    assert serial(read(tmp_path, "ca")) != serial(read(tmp_path, "CA"))
    before = {f: f.read_bytes() for f in files}
    for names in (["clinic"], ["lab"], ["ca"]):
        with pytest.raises(
            ValueError, match="not written over.*name all parties at once"
        ):
            certs.certs(tmp_path, names)
    assert {f: f.read_bytes() for f in tmp_path.iterdir()} == before
    for days in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="`days` must be a positive number"):
            certs.certs(tmp_path / "new", ["lab"], days=days)
    assert not (tmp_path / "new").exists()
