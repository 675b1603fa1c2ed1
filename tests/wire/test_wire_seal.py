"""What goes by way of a third party is readable for its receiver alone, as its sender sent it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from jsplit.wire import chunks, codec
from jsplit.wire.certs import Credentials, PlaintextWithoutIdentity, authority, uri_of
from jsplit.wire.codec import Head, frame_of
from jsplit.wire.errors import Astray, Refused, RemoteProtocolError
from jsplit.wire.key_exchange import KeyExchange
from jsplit.wire.relay import OVERHEAD
from jsplit.wire.seal import Sealer

PARTIES, RUN, LIMIT = ("lab", "clinic", "server"), b"r" * 32, 1 << 20
SECRET = np.arange(1000, dtype=np.float32)


@pytest.fixture(scope="module")
def trust():
    return authority(PARTIES)


def sealer(trust, me, instance=7):
    uris = [uri_of(p) for p in PARTIES]
    return Sealer(KeyExchange(trust, PARTIES, uris, RUN, me, instance), LIMIT)


def frame(step=3, sender=0, receiver=1):
    return frame_of(Head("activation", RUN, 2, 7, sender, receiver, step), [SECRET])


@pytest.fixture
def pair(trust):
    return meet(sealer(trust["lab"], 0), sealer(trust["clinic"], 1))


def meet(a, b):
    """Two parties exchange offers until none has an answer; gives both."""
    due, offers = [(a, b)], 0
    while due:
        sender, receiver = due.pop()
        offers += 1
        assert offers < 9
        if receiver.meet(sender.me, 7, sender.offer(receiver.me)):
            due.append((receiver, sender))
    assert a.has(b.me) and b.has(a.me)
    return a, b


def heard_by(sender, receiver):
    """What `sender` offers once it has heard of the key of `receiver`, which has it not."""
    sender.meet(receiver.me, 7, {"public": receiver.public.hex(), "heard": ""})
    return sender.offer(receiver.me)


def test_what_was_sealed_is_opened_by_its_receiver_and_the_relay_sees_only_where_it_goes(
    pair,
):
    lab, clinic = pair
    sealed = lab.seal(frame())
    data = b"".join(chunks.encode(sealed))
    assert SECRET.tobytes()[100:164] not in data and sealed.head.sealed
    assert (
        sealed.head.id() == frame().head.id()
        and 28 < sealed.head.size - frame().head.size <= OVERHEAD
    )
    found = clinic.open(chunks.decode(data, LIMIT))
    assert found.head == frame().head and (found.arrays[0] == SECRET).all()


def test_no_two_seals_are_alike_and_a_frame_may_be_sent_again(pair):
    lab, clinic = pair
    first, second = lab.seal(frame()), lab.seal(frame())
    assert first.arrays[0].tobytes() != second.arrays[0].tobytes()
    for found in map(clinic.open, (first, second)):
        assert found is not None and found.arrays[0][5] == 5


def test_what_the_relay_repeats_or_holds_back_is_not_opened(pair):
    lab, clinic = pair
    first, second, third = (lab.seal(frame(step)) for step in range(3))
    assert clinic.open(first) and clinic.open(first) is None
    assert clinic.open(third) and clinic.open(second) is None
    assert clinic.open(lab.seal(frame(1)))  # sent again, and so sealed anew


@pytest.mark.parametrize("at", [0, 5, 12, 100, 4000, -1])
def test_a_changed_seal_is_refused(pair, at):
    lab, clinic = pair
    sealed = lab.seal(frame())
    data = sealed.arrays[0].copy()
    data[at] ^= 1
    with pytest.raises(RemoteProtocolError, match="was not sealed by it"):
        clinic.open(frame_of(sealed.head, [data]))


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4},
        {"epoch": 3},
        {"value": 1},
        {"micro": 1},
        {"kind": "cotangent"},
        {"instance": 8},
    ],
)
def test_a_seal_with_another_head_is_refused(pair, change):
    lab, clinic = pair
    sealed = lab.seal(frame())
    with pytest.raises(RemoteProtocolError, match="holds another than it says"):
        clinic.open(codec.Frame(replace(sealed.head, **change), sealed.arrays))


def test_a_seal_cannot_be_sent_back_or_to_another(pair, trust):
    lab, clinic = pair
    _, server = meet(lab, sealer(trust["server"], 2))
    sealed = lab.seal(frame())
    with pytest.raises(RemoteProtocolError, match="was not sealed"):
        server.open(sealed)
    with pytest.raises(RemoteProtocolError, match="was not sealed"):
        lab.open(codec.Frame(replace(sealed.head, sender=1, receiver=0), sealed.arrays))
    with pytest.raises(RemoteProtocolError, match="before its key"):
        clinic.open(codec.Frame(replace(sealed.head, sender=2), sealed.arrays))


def test_a_key_is_taken_only_from_the_party_whose_certificate_it_carries(trust):
    lab, clinic, server = (sealer(trust[p], i) for i, p in enumerate(PARTIES))
    good = heard_by(lab, clinic)
    assert clinic.meet(0, 7, good) and not clinic.meet(0, 7, good)
    other = authority(["lab"])["lab"]
    relay = sealer(trust["server"], 2)  # the one between, which would like to read
    clinic = sealer(trust["clinic"], 1)
    good, of_relay = (
        heard_by(lab := sealer(trust["lab"], 0), clinic),
        heard_by(relay, clinic),
    )
    to_relay = heard_by(lab, relay) | {"heard": clinic.public.hex()}
    for wrong, instance in [
        (of_relay, 7),
        (good | {"public": relay.public.hex()}, 7),
        (good | {"signature": of_relay["signature"]}, 7),
        (good | {"certificate": trust["server"].certificate.decode()}, 7),
        (good, 8),
        (to_relay, 7),
        (heard_by(sealer(other, 0), clinic), 7),
        ({}, 7),
        ({"public": good["public"]}, 7),
        ({"public": good["public"], "heard": good["heard"]}, 7),
        (good | {"heard": 3}, 7),
        (good | {"public": "xy"}, 7),
        (good | {"public": "00" * 32}, 7),
        (good | {"certificate": 3}, 7),
        (good | {"certificate": ""}, 7),
    ]:
        with pytest.raises(Refused, match="^`clinic` does not take the key of `lab`: "):
            clinic.meet(0, instance, wrong)
    assert not clinic.has(0) and not server.has(0)
    assert clinic.meet(0, 7, good)


def test_a_key_whose_certificate_is_not_valid_now_is_dropped_and_the_next_may_be_taken(
    trust,
):
    """Else one whose certificate has ended, or whose clock is wrong, would end the run for all."""
    day, now = timedelta(days=1), datetime.now(UTC)
    clinic, own = sealer(trust["clinic"], 1), trust["lab"]
    for start in (now - 9 * day, now + day):
        lab = sealer(authority(["lab"], 1, start=start)["lab"], 0)
        with pytest.raises(
            Astray, match="^`clinic` does not take .*: its .* not valid now"
        ):
            clinic.meet(0, 7, heard_by(lab, clinic))
    ended = authority(["lab"], 1, start=now - 9 * day)["lab"].authority
    mine = trust["clinic"]
    later = sealer(Credentials(mine.certificate, mine.key, ended), 1)
    with pytest.raises(Astray, match="the authority of its certificate is not valid"):
        later.meet(0, 7, heard_by(sealer(own, 0), later))
    assert not clinic.has(0) and not later.has(0)
    meet(sealer(own, 0), clinic)


def test_an_offer_is_for_one_process_of_its_receiver_and_shows_nothing_to_another(
    trust,
):
    """The signature covers both keys: what was signed for one cannot be shown to the next."""
    lab, clinic = sealer(trust["lab"], 0), sealer(trust["clinic"], 1)
    offer, later = heard_by(lab, clinic), sealer(trust["clinic"], 1)
    assert later.meet(0, 7, offer) and not later.has(0)  # asked for one of its own
    with pytest.raises(Refused, match="not signed with the key"):
        later.meet(0, 7, offer | {"heard": later.public.hex()})
    assert not later.has(0)


def test_a_key_that_the_relay_puts_in_between_opens_and_seals_nothing(trust):
    """The one between answers both in the other's name, with a key of its own."""
    lab, clinic = sealer(trust["lab"], 0), sealer(trust["clinic"], 1)
    relay = sealer(trust["server"], 2)
    false = {"public": relay.public.hex(), "heard": ""}
    assert lab.meet(1, 7, false) and clinic.meet(0, 7, false)
    # Each now signs for the relay's key, which the other sees and does not take.
    of_lab, of_clinic = lab.offer(1), clinic.offer(0)
    assert clinic.meet(0, 7, of_lab) and lab.meet(1, 7, of_clinic)
    assert not clinic.has(0) and not lab.has(1)
    # Left alone, they come to their own keys; from then on it can say what it likes.
    meet(lab, clinic)
    for sender, receiver in ((lab, clinic), (clinic, lab)):
        assert receiver.meet(sender.me, 7, false)
        assert receiver.open(sender.seal(frame(4, sender.me, receiver.me)))


def test_each_process_has_a_key_of_its_own(trust):
    assert sealer(trust["lab"], 0).public != sealer(trust["lab"], 0).public


def test_without_certificates_keys_are_believed_as_all_else():
    plain = [sealer(PlaintextWithoutIdentity(p), i) for i, p in enumerate(PARTIES[:2])]
    meet(*plain)
    found = plain[1].open(plain[0].seal(frame()))
    assert found is not None and (found.arrays[0] == SECRET).all()


@pytest.mark.parametrize(
    ("what", "why"),  # 35: authority key identifier, 19: basic constraints
    [
        ({}, None),
        ({"kind": "rsa"}, None),
        ({"issuer": False}, "2.5.29.35"),
        ({"critical": False}, "2.5.29.19"),
        (
            {"name": "clinic"},
            'its certificate names "jsplit://party/clinic", not jsplit://party/lab',
        ),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said_by_name_and_in_the_words_of_who_checked_it(
    what, why
):
    """An authority issues what it issues; TLS takes some that are not taken here."""
    own = issued(**what)
    lab, clinic = sealer(own, 0), sealer(own, 1)
    if why is None:
        assert clinic.meet(0, 7, heard_by(lab, clinic))
    else:
        with pytest.raises(
            Refused, match=f"^`clinic` does not take the key of `lab`: .*({why})"
        ):
            clinic.meet(0, 7, heard_by(lab, clinic))


def issued(kind="ec", name="lab", issuer=True, critical=True, days=3, uris=()):
    """A certificate as another authority might issue it, and that authority's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    root, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])

    def builder(public, serial):
        made = (
            x509.CertificateBuilder()
            .subject_name(called)
            .issuer_name(called)
            .public_key(public)
            .serial_number(serial)
        )
        return made.not_valid_before(now - timedelta(days=5)).not_valid_after(
            now + timedelta(days=days)
        )

    whose = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    top = (
        builder(root.public_key(), 7)
        .add_extension(x509.BasicConstraints(True, None), critical)
        .add_extension(whose, False)
    )
    top = top.add_extension(usage, True)
    leaf = builder(key.public_key(), 9)
    leaf = leaf.add_extension(
        x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(uri) for uri in uris or [uri_of(name)]]
        ),
        False,
    )
    if issuer:
        leaf = leaf.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False
        )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    top, leaf = (x.sign(root, hashes.SHA256()).public_bytes(pem) for x in (top, leaf))
    return Credentials(leaf, secret, top)
