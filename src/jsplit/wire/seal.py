"""Sealed from end to end: what two parties send each other by way of a third, the lead.

The lead sees who sends, when and how much, and no content. Each process has an X25519 key of its
own, signed with the key of its certificate, so that no one between can put theirs in its place.
What is derived from both (HKDF, SHA-256) encrypts whole frames with ChaCha20-Poly1305, one key for
each direction; a counter is the nonce, so none comes twice. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.verification import VerificationError

from jsplit.wire import chunks
from jsplit.wire.credentials import Credentials, Trust
from jsplit.wire.denied import why_denied
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.frames import Frame, frame_of
from jsplit.wire.json_types import Json
from jsplit.wire.signatures import sign, verified_uris, verify

_NONCE = 12

# Part of whatever is signed or derived: a signature made for anything else with the same key of a
# certificate is none here, and another version of this protocol has other keys.
_PURPOSE = b"jsplit seal 1"


@dataclass(frozen=True)
class _PeerKeys:
    """What is derived with one peer.

    Attributes:
        public: the peer's public key.
        out: encrypts for the peer.
        back: decrypts what the peer encrypted.
        instance: the peer's process.
    """

    public: bytes
    out: ChaCha20Poly1305
    back: ChaCha20Poly1305
    instance: int


class Sealer:
    """One party's keys for all parties that it reaches by way of the lead.

    Args:
        trust: its credentials.
        parties: names, by their places in the agreement.
        identities: the URIs that the parties' certificates must hold, by the same places.
        run: hash of the agreement.
        me: this party, by its place.
        instance: number of this process.
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
        self.trust = trust
        self.parties = parties
        self.identities = identities
        self.run = run
        self.me = me
        self.instance = instance
        self.limit = limit
        # Of this process alone and never on a disk: whoever gets the certificate's key later
        # cannot read what was sent before.
        self.own = X25519PrivateKey.generate()
        self.public = self.own.public_key().public_bytes_raw()
        self.keys: dict[int, _PeerKeys] = {}
        self.count = 0

    def statement(
        self, sender: int, receiver: int, instance: int, public: bytes
    ) -> bytes:
        """Give what is signed: whose key it is, for whom, in which run and process."""
        # All of a fixed length, so that no two statements are the same bytes. The receiver is in
        # it, or a peer could show this party's offer to another as meant for it.
        numbers = b"".join(n.to_bytes(8, "big") for n in (sender, receiver, instance))
        return _PURPOSE + self.run + numbers + public

    def offer(self, peer: int) -> dict[str, str]:
        """Give this party's key, its certificate, and the signature that binds them.

        Args:
            peer: for whom, by its place.

        Returns:
            What the body of a frame of the kind "key" says; `meet` of the peer takes it.
        """
        if not isinstance(self.trust, Credentials):
            return {"public": self.public.hex()}
        own = self.trust.current()
        key = serialization.load_pem_private_key(own.key, None)
        statement = self.statement(self.me, peer, self.instance, self.public)
        return {
            "public": self.public.hex(),
            "certificate": own.certificate.decode(),
            "signature": sign(key, statement).hex(),
        }

    def meet(self, peer: int, instance: int, offer: Mapping[str, Json]) -> bool:
        """Take the key of a peer, if it is shown to be the peer's.

        Args:
            peer: who it is said to be, by its place.
            instance: number of its process.
            offer: what it offers; the lead has passed it on, and may have changed it.

        Returns:
            Whether it is another key than before.

        Raises:
            Refused: if it is not shown to be the peer's. That is between the two of them: the
                lead only passes it on.
        """
        try:
            public = bytes.fromhex(_text(offer, "public"))
            theirs = X25519PublicKey.from_public_bytes(public)
            if isinstance(self.trust, Credentials):
                certificate = _text(offer, "certificate").encode()
                chain = x509.load_pem_x509_certificates(certificate)
                # The certificate before the signature: a signature by a key of anybody's is
                # worth nothing.
                self.check(peer, chain)
                statement = self.statement(peer, self.me, instance, public)
                verify(chain[0], bytes.fromhex(_text(offer, "signature")), statement)
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
        # The offer is whatever JSON the other side wrote: keys may lack, values be of any type,
        # the chain be empty, and a point of low order makes `exchange` raise ValueError.
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self.refused(
                peer, f"it is not one: {type(error).__name__}: {error}"
            ) from None

        # An offer that is sent again changes nothing, so that its answer is not another offer.
        if peer in self.keys and self.keys[peer].public == public:
            return False
        self.keys[peer] = _PeerKeys(
            public,
            out=self.derived(shared, self.me, self.public, peer, public),
            back=self.derived(shared, peer, public, self.me, self.public),
            instance=instance,
        )
        return True

    def derived(
        self,
        shared: bytes,
        sender: int,
        sender_public: bytes,
        receiver: int,
        receiver_public: bytes,
    ) -> ChaCha20Poly1305:
        """Derive the key of one direction from the secret that both parties share."""
        # Who sends is part of it, so each direction has a key of its own. Both count their
        # nonces from 1: under one key, the same nonce would be used for two frames, which gives
        # away both. The public keys bind it to this exchange (RFC 7748, section 6.1).
        info = (
            _PURPOSE
            + self.run
            + sender.to_bytes(8, "big")
            + sender_public
            + receiver.to_bytes(8, "big")
            + receiver_public
        )
        return ChaCha20Poly1305(HKDF(hashes.SHA256(), 32, None, info).derive(shared))

    def refused(self, peer: int, why: str) -> Refused:
        """Give the error that says why the key of a peer is not taken."""
        me, other = self.parties[self.me], self.parties[peer]
        return Refused(f"`{me}` does not take the key of `{other}`: {why}")

    def check(self, peer: int, chain: list[x509.Certificate]) -> None:
        """Check that a certificate is by a trusted authority, valid now, and names the peer.

        Args:
            peer: whom it must name, by its place.
            chain: the certificate, and those between it and the authority.

        Raises:
            VerificationError: if no valid path leads from it to an authority.
            Refused: if it is another party's.
        """
        assert isinstance(self.trust, Credentials)
        own = self.trust.current()
        shown = verified_uris(chain, own.authority)
        # The authority vouches for all parties, so a valid certificate may be another's.
        if self.identities[peer] not in shown:
            raise self.refused(
                peer,
                f"its certificate names {', '.join(shown) or 'no one'}, "
                f"not {self.identities[peer]}.",
            )
        if why := why_denied(chain[0].serial_number, own.denied):
            raise self.refused(peer, f"{why}.")

    def keep(self, instances: Sequence[int]) -> None:
        """Forget the keys of processes other than these, given by their parties' places."""
        self.keys = {
            peer: own
            for peer, own in self.keys.items()
            if own.instance == instances[peer]
        }

    def has(self, peer: int) -> bool:
        """Tell whether a frame can be sealed for a peer."""
        return peer in self.keys

    def seal(self, frame: Frame) -> Frame:
        """Encrypt a frame whole for its receiver; `open` is the inverse.

        The head outside says only where it goes and which it is.
        """
        # One counter for all peers: each key sees a part of the numbers, and none of them twice.
        self.count += 1
        nonce = self.count.to_bytes(_NONCE, "big")
        plain = b"".join(chunks.encode(frame))
        data = nonce + self.keys[frame.head.receiver].out.encrypt(nonce, plain, None)
        head = replace(frame.head, sealed=True)
        return frame_of(head, [np.frombuffer(data, np.uint8)])

    def open(self, frame: Frame) -> Frame:
        """Decrypt a frame that its sender sealed for this party; the inverse of `seal`.

        Raises:
            RemoteProtocolError: if it was not sealed by its sender for this party, or is not what
                the head outside says.
        """
        peer = frame.head.sender
        if peer not in self.keys or len(frame.arrays) != 1:
            raise RemoteProtocolError(
                f"`{self.parties[peer]}` sent a sealed frame before its key."
            )
        data = frame.arrays[0].tobytes()
        try:
            plain = self.keys[peer].back.decrypt(data[:_NONCE], data[_NONCE:], None)
            found = chunks.decode(plain, self.limit)
        except (InvalidTag, ValueError):
            raise RemoteProtocolError(
                f"a frame of `{self.parties[peer]}` was not sealed by it for this party."
            ) from None
        # The head outside is not encrypted, and the lead could have put a true sealed frame under
        # the head of another: an old activation as that of this step.
        is_what_it_says = (
            found.head.id() == frame.head.id()
            and found.head.instance == frame.head.instance
            and not found.head.sealed
        )
        if not is_what_it_says:
            raise RemoteProtocolError(
                f"a frame of `{self.parties[peer]}` holds another than it says."
            )
        return found


def _text(offer: Mapping[str, Json], name: str) -> str:
    found = offer[name]
    if not isinstance(found, str):
        raise TypeError(f"`{name}` is no text.")
    return found
