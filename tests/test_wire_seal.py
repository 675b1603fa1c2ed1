"""What goes by way of a third party is readable for its receiver alone, and only as its sender sent it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from jsplit.wire import chunks, codec
from jsplit.wire.certs import Credentials, PlaintextWithoutIdentity, authority, uri_of
from jsplit.wire.codec import Head, frame_of
from jsplit.wire.seal import OVERHEAD, Sealer
from jsplit.wire.session import RemoteProtocolError

PARTIES, RUN, LIMIT = ("lab", "clinic", "server"), b"r" * 32, 1 << 20
SECRET = np.arange(1000, dtype=np.float32)


@pytest.fixture(scope="module")
def trust():
    return authority(PARTIES)


def sealer(trust, me, instance=7):
    return Sealer(trust, lambda p: uri_of(PARTIES[p]), RUN, me, instance, LIMIT)


def frame(step=3, sender=0, receiver=1):
    return frame_of(Head("activation", RUN, 2, 7, sender, receiver, step), [SECRET])


@pytest.fixture
def pair(trust):
    lab, clinic = sealer(trust["lab"], 0), sealer(trust["clinic"], 1)
    assert lab.meet(1, 7, clinic.offer(0)) and clinic.meet(0, 7, lab.offer(1))
    return lab, clinic


def test_what_was_sealed_is_opened_by_its_receiver_and_the_relay_sees_only_where_it_goes(pair):
    lab, clinic = pair
    sealed = lab.seal(frame())
    data = b"".join(chunks.encode(sealed))
    assert SECRET.tobytes()[100:164] not in data and sealed.head.sealed
    assert sealed.head.id() == frame().head.id() and sealed.head.size - frame().head.size <= OVERHEAD
    found = clinic.open(chunks.decode(data, LIMIT))
    assert found.head == frame().head and (found.arrays[0] == SECRET).all()


def test_no_two_seals_are_alike_and_a_frame_may_be_sent_again(pair):
    lab, clinic = pair
    first, second = lab.seal(frame()), lab.seal(frame())
    assert first.arrays[0].tobytes() != second.arrays[0].tobytes()
    assert all(clinic.open(f).arrays[0][5] == 5 for f in (second, first, first))  # what comes twice is the session's affair


@pytest.mark.parametrize("at", [0, 5, 12, 100, 4000, -1])
def test_a_changed_seal_is_refused(pair, at):
    lab, clinic = pair
    sealed = lab.seal(frame())
    data = sealed.arrays[0].copy()
    data[at] ^= 1
    with pytest.raises(RemoteProtocolError, match="was not sealed by it"):
        clinic.open(frame_of(sealed.head, [data]))


@pytest.mark.parametrize(
    "change", [{"step": 4}, {"epoch": 3}, {"value": 1}, {"micro": 1}, {"kind": "cotangent"}, {"instance": 8}]
)
def test_a_seal_with_another_head_is_refused(pair, change):
    lab, clinic = pair
    sealed = lab.seal(frame())
    with pytest.raises(RemoteProtocolError, match="holds another than it says"):
        clinic.open(codec.Frame(replace(sealed.head, **change), sealed.arrays))


def test_a_seal_cannot_be_sent_back_or_to_another(pair, trust):
    lab, clinic = pair
    server = sealer(trust["server"], 2)
    server.meet(0, 7, lab.offer(2))
    lab.meet(2, 7, server.offer(0))
    sealed = lab.seal(frame())
    with pytest.raises(RemoteProtocolError, match="was not sealed"):
        server.open(sealed)
    with pytest.raises(RemoteProtocolError, match="was not sealed"):
        lab.open(codec.Frame(replace(sealed.head, sender=1, receiver=0), sealed.arrays))
    with pytest.raises(RemoteProtocolError, match="before its key"):
        clinic.open(codec.Frame(replace(sealed.head, sender=2), sealed.arrays))


def test_a_key_is_taken_only_from_the_party_whose_certificate_it_carries(trust):
    lab, clinic, server = (sealer(trust[p], i) for i, p in enumerate(PARTIES))
    good = lab.offer(1)
    assert clinic.meet(0, 7, good) and not clinic.meet(0, 7, good)
    other = authority(["lab"])["lab"]
    old = authority(["lab"], 1, start=datetime.now(UTC) - timedelta(days=9))["lab"]
    relay = sealer(trust["server"], 2)  # the one between, which would like to read
    for wrong, instance in [
        (relay.offer(1), 7), (good | {"public": relay.public.hex()}, 7), (good | {"signature": relay.offer(1)["signature"]}, 7),
        (good | {"certificate": trust["server"].certificate.decode()}, 7), (good, 8), (lab.offer(2), 7),
        (sealer(other, 0).offer(1), 7), (sealer(old, 0).offer(1), 7), ({}, 7), ({"public": good["public"]}, 7),
        (good | {"public": "xy"}, 7), (good | {"public": "00" * 32}, 7), (good | {"certificate": 3}, 7),
        (good | {"certificate": ""}, 7),
    ]:  # fmt: skip
        with pytest.raises(RemoteProtocolError, match="not its own|another party"):
            sealer(trust["clinic"], 1).meet(0, instance, wrong)
    assert server.has(0) is False


def test_each_process_has_a_key_of_its_own(trust):
    assert sealer(trust["lab"], 0).public != sealer(trust["lab"], 0).public


def test_without_certificates_keys_are_believed_as_all_else():
    plain = [sealer(PlaintextWithoutIdentity(p), i) for i, p in enumerate(PARTIES[:2])]
    plain[0].meet(1, 7, plain[1].offer(0))
    plain[1].meet(0, 7, plain[0].offer(1))
    assert (plain[1].open(plain[0].seal(frame())).arrays[0] == SECRET).all()


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_certificates_with_other_kinds_of_keys_will_do(kind):
    """An institution's own authority issues what it issues."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    from jsplit.wire import seal

    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, 2048)
    name, now = x509.Name([]), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = made.sign(key, None if kind == "ed25519" else hashes.SHA256())
    signature = seal.sign(key, b"statement")
    seal.verify(certificate, signature, b"statement")
    with pytest.raises(Exception, match="|".join(["", "Signature"])):
        seal.verify(certificate, signature, b"another")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert Credentials(b"", pem, b"").key == pem
