"""Sealed from end to end: what two parties send each other by way of a third, which then sees who, when and how much.

Each process has an X25519 key of its own, signed with the key of its certificate, so that no one between can put theirs
in its place. What is derived from both (HKDF, SHA-256) encrypts whole frames with ChaCha20-Poly1305, one key for each
direction; a counter is the nonce, so none comes twice. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from jsplit.wire import chunks, codec
from jsplit.wire.certs import Credentials, Trust
from jsplit.wire.codec import Frame
from jsplit.wire.errors import Refused, RemoteProtocolError

_NONCE = 12


class Sealer:
    """One party's keys for all that it reaches by way of another.

    Args:
        trust: its credentials.
        parties: names, by their places; `identities`: the URIs that their certificates must hold.
        run: hash of the agreement.
        me, instance: this party by its place, and this process.
        limit: the most bytes that the arrays of one frame may take.
    """

    def __init__(
        self,
        trust: Trust,
        parties: Sequence[str],
        identities: Sequence[str],
        run: bytes,
        me: int,
        instance: int,
        limit: int,
    ):
        self.trust, self.parties, self.identities, self.run = (
            trust,
            parties,
            identities,
            run,
        )
        self.me, self.instance, self.limit = me, instance, limit
        self.own = X25519PrivateKey.generate()
        self.public = self.own.public_key().public_bytes_raw()
        self.keys: dict[int, tuple[bytes, ChaCha20Poly1305, ChaCha20Poly1305, int]] = {}
        self.count = 0

    def statement(
        self, sender: int, receiver: int, instance: int, public: bytes
    ) -> bytes:
        """What is signed: whose key it is, for whom, in which run and process."""
        return (
            b"jsplit seal 1"
            + self.run
            + b"".join(n.to_bytes(8, "big") for n in (sender, receiver, instance))
            + public
        )

    def offer(self, peer: int) -> dict[str, str]:
        """This party's key, its certificate, and the signature that binds them."""
        if not isinstance(self.trust, Credentials):
            return {"public": self.public.hex()}
        key = serialization.load_pem_private_key(self.trust.key, None)
        signature = _sign(
            key, self.statement(self.me, peer, self.instance, self.public)
        )
        return {
            "public": self.public.hex(),
            "certificate": self.trust.certificate.decode(),
            "signature": signature.hex(),
        }

    def meet(self, peer: int, instance: int, offer: Mapping[str, Any]) -> bool:
        """Take the key of a peer; gives whether it is another than before.

        Raises:
            Refused: if it is not shown to be the peer's. That is between the two of them: the lead only passes it on.
        """
        try:
            public = bytes.fromhex(offer["public"])
            theirs = X25519PublicKey.from_public_bytes(public)
            if isinstance(self.trust, Credentials):
                chain = x509.load_pem_x509_certificates(offer["certificate"].encode())
                self.check(peer, chain)
                _verify(
                    chain[0],
                    bytes.fromhex(offer["signature"]),
                    self.statement(peer, self.me, instance, public),
                )
            shared = self.own.exchange(theirs)
        except VerificationError as error:
            raise self.refused(
                peer, f"its certificate is not accepted: {error}"
            ) from None
        except InvalidSignature:
            raise self.refused(
                peer,
                "it is not signed with the key of the certificate that came with it.",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise self.refused(
                peer, f"it is not one: {type(error).__name__}: {error}"
            ) from None
        if peer in self.keys and self.keys[peer][0] == public:
            return False

        def derived(sender: int, a: bytes, receiver: int, b: bytes) -> ChaCha20Poly1305:
            info = (
                b"jsplit seal 1"
                + self.run
                + sender.to_bytes(8, "big")
                + a
                + receiver.to_bytes(8, "big")
                + b
            )
            return ChaCha20Poly1305(
                HKDF(hashes.SHA256(), 32, None, info).derive(shared)
            )

        out = derived(self.me, self.public, peer, public)
        self.keys[peer] = (
            public,
            out,
            derived(peer, public, self.me, self.public),
            instance,
        )
        return True

    def refused(self, peer: int, why: str) -> Refused:
        return Refused(
            f"`{self.parties[self.me]}` does not take the key of `{self.parties[peer]}`: {why}"
        )

    def check(self, peer: int, chain: list[x509.Certificate]) -> None:
        """The certificate is by an authority that this party trusts, is valid now, and names the peer."""
        assert isinstance(self.trust, Credentials)
        store = Store(x509.load_pem_x509_certificates(self.trust.authority))
        PolicyBuilder().store(store).build_client_verifier().verify(chain[0], chain[1:])
        try:
            names = (
                chain[0]
                .extensions.get_extension_for_class(x509.SubjectAlternativeName)
                .value
            )
        except x509.ExtensionNotFound:
            names = x509.SubjectAlternativeName([])
        shown = names.get_values_for_type(x509.UniformResourceIdentifier)
        if self.identities[peer] not in shown:
            raise self.refused(
                peer,
                f"its certificate names {', '.join(shown) or 'no one'}, not {self.identities[peer]}.",
            )

    def keep(self, instances: Sequence[int]) -> None:
        """Forget the keys of processes other than these."""
        self.keys = {
            peer: own for peer, own in self.keys.items() if own[3] == instances[peer]
        }

    def has(self, peer: int) -> bool:
        return peer in self.keys

    def seal(self, frame: Frame) -> Frame:
        """The frame, encrypted whole for its receiver; the head outside says only where it goes and which it is."""
        self.count += 1
        nonce = self.count.to_bytes(_NONCE, "big")
        data = nonce + self.keys[frame.head.receiver][1].encrypt(
            nonce, b"".join(chunks.encode(frame)), None
        )
        return codec.frame_of(
            replace(frame.head, sealed=True), [np.frombuffer(data, np.uint8)]
        )

    def open(self, frame: Frame) -> Frame:
        """The inverse of `seal`.

        Raises:
            RemoteProtocolError: if it was not sealed by its sender for this party, or is not what the head outside says.
        """
        peer = frame.head.sender
        if peer not in self.keys or len(frame.arrays) != 1:
            raise RemoteProtocolError(
                f"`{self.parties[peer]}` sent a sealed frame before its key."
            )
        data = frame.arrays[0].tobytes()
        try:
            found = chunks.decode(
                self.keys[peer][2].decrypt(data[:_NONCE], data[_NONCE:], None),
                self.limit,
            )
        except (InvalidTag, ValueError):
            raise RemoteProtocolError(
                f"a frame of `{self.parties[peer]}` was not sealed by it for this party."
            ) from None
        if (
            found.head.id() != frame.head.id()
            or found.head.instance != frame.head.instance
            or found.head.sealed
        ):
            raise RemoteProtocolError(
                f"a frame of `{self.parties[peer]}` holds another than it says."
            )
        return found


def _sign(key: Any, statement: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(statement, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(statement, _pss(), hashes.SHA256())
    raise ValueError(
        f"`key` must be an elliptic curve or RSA key, got {type(key).__name__}."
    )


def _verify(certificate: x509.Certificate, signature: bytes, statement: bytes) -> None:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, statement, _pss(), hashes.SHA256())
    else:
        raise ValueError(f"a certificate has a key of the kind {type(key).__name__}.")


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
