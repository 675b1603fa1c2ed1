"""The keys with which two processes seal: offered, signed over both, and checked. No sealing here.

Each process has an X25519 key of its own. An offer holds it, and the key that its sender has heard
of the receiver; once it has heard one, a signature over both, by the key of its certificate. Who
passes offers on can neither put a key in between nor show an offer to anybody else, or later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.verification import VerificationError

from jsplit.wire.credentials import Credentials, Trust
from jsplit.wire.denied import why_denied
from jsplit.wire.errors import Astray, Refused
from jsplit.wire.json_types import Json
from jsplit.wire.said import quoted
from jsplit.wire.signatures import sign, verified_uris, verify, why_not_valid_now

# Part of whatever is signed or derived: a signature made for anything else with the same key of a
# certificate is none here, and another version of this protocol has other keys.
_PURPOSE = b"jsplit seal 2"


class KeyExchange:
    """One process's key, and what shows whose it is.

    Args:
        trust: the party's credentials.
        parties: names, by their places in the agreement.
        identities: the URIs that the parties' certificates must hold, by the same places.
        run: hash of the agreement.
        me: this party, by its place.
        instance: number of this process.
    """

    def __init__(
        self,
        trust: Trust,
        parties: Sequence[str],
        identities: Sequence[str],
        run: bytes,
        me: int,
        instance: int,
    ):
        self.trust = trust
        self.parties = parties
        self.identities = identities
        self.run = run
        self.me = me
        self.instance = instance
        # Of this process alone and never on a disk: whoever gets the certificate's key later
        # cannot read what was sent before.
        self.own = X25519PrivateKey.generate()
        self.public = self.own.public_key().public_bytes_raw()

    def statement(
        self, sender: int, receiver: int, instance: int, public: bytes, heard: bytes
    ) -> bytes:
        """Give what is signed: whose key it is, for whose key, in which run and process."""
        # All of a fixed length, so that no two statements are the same bytes. The receiver's key
        # is in it, or an offer could be shown to another process of the receiver, and its sender
        # could not tell with whom it shares a key (Krawczyk, SIGMA, 2003, section 5).
        numbers = b"".join(n.to_bytes(8, "big") for n in (sender, receiver, instance))
        return _PURPOSE + self.run + numbers + public + heard

    def offer(self, peer: int, heard: bytes) -> dict[str, str]:
        """Give this party's key, and what binds it to the peer's.

        Args:
            peer: for whom, by its place.
            heard: the key that is said to be the peer's; empty while none is known.

        Returns:
            What the body of a frame of the kind "key" says.
        """
        said = {"public": self.public.hex(), "heard": heard.hex()}
        # Nothing to sign yet: by an answer to this the peer's key is known.
        if not heard or not isinstance(self.trust, Credentials):
            return said
        own = self.trust.current()
        key = serialization.load_pem_private_key(own.key, None)
        statement = self.statement(self.me, peer, self.instance, self.public, heard)
        return said | {
            "certificate": own.certificate.decode(),
            "signature": sign(key, statement).hex(),
        }

    def read(self, peer: int, offer: Mapping[str, Json]) -> tuple[bytes, bytes]:
        """Give the key that an offer holds, and the one that its sender has heard.

        Raises:
            Refused: if it holds none.
        """
        try:
            public = _bytes_of(offer, "public")
            X25519PublicKey.from_public_bytes(public)
            return public, _bytes_of(offer, "heard")
        # The offer is whatever JSON the other side wrote: keys may lack, values be of any type.
        except (ValueError, KeyError, TypeError) as error:
            raise self._no_offer(peer, error) from None

    def meet(
        self, peer: int, instance: int, public: bytes, offer: Mapping[str, Json]
    ) -> bytes:
        """Give the secret that is shared with a peer, if an offer is shown to be the peer's.

        Args:
            peer: who it is said to be, by its place.
            instance: number of its process.
            public: its key.
            offer: what it offers; the lead has passed it on, and may have changed it.

        Raises:
            Refused: if it is not shown to be the peer's. That is between the two of them: the
                lead only passes it on.
            Astray: if only the time is wrong, by the certificate that came with it. It may be
                renewed, or a clock be set: the offer is dropped, and the next may be taken.
        """
        try:
            if isinstance(self.trust, Credentials):
                certificate = _text(offer, "certificate").encode()
                chain = x509.load_pem_x509_certificates(certificate)
                # The certificate before the signature: a signature by a key of anybody's is
                # worth nothing.
                self._check(peer, chain)
                statement = self.statement(peer, self.me, instance, public, self.public)
                verify(chain[0], _bytes_of(offer, "signature"), statement)
            return self.own.exchange(X25519PublicKey.from_public_bytes(public))
        except VerificationError as error:
            # It describes the certificate, in which anybody may have written anything.
            why = f"its certificate is not accepted: {quoted(str(error))}"
            raise self._refused(peer, why) from None
        except InvalidSignature:
            raise self._refused(
                peer,
                "it is not signed with the key of the certificate that came with it.",
            ) from None
        # The chain may be empty, and a point of low order makes `exchange` raise ValueError.
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._no_offer(peer, error) from None

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

    def _refused(self, peer: int, why: str) -> Refused:
        """The error that says why the key of a peer is not taken."""
        return Refused(f"{self._not_taken(peer)}: {why}")

    def _not_taken(self, peer: int) -> str:
        me, other = self.parties[self.me], self.parties[peer]
        return f"`{me}` does not take the key of `{other}`"

    def _no_offer(self, peer: int, error: Exception) -> Refused:
        why = f"it is not one: {type(error).__name__}: {quoted(str(error))}"
        return self._refused(peer, why)

    def _check(self, peer: int, chain: list[x509.Certificate]) -> None:
        """Check that a certificate is by a trusted authority, valid now, and names the peer.

        Args:
            peer: whom it must name, by its place.
            chain: the certificate, and those between it and the authority.

        Raises:
            VerificationError: if no valid path leads from it to an authority.
            Refused: if it is another party's.
            Astray: if it is not valid now.
        """
        assert isinstance(self.trust, Credentials)
        own = self.trust.current()
        # Before anything else is looked at: whoever dials with such a certificate is not let
        # in, and may try again; so this is to end no run either.
        if why := why_not_valid_now(chain, own.authority):
            raise Astray(f"{self._not_taken(peer)}: {why}.")
        shown = verified_uris(chain, own.authority)
        # The authority vouches for all parties, so a valid certificate may be another's.
        if self.identities[peer] not in shown:
            names = quoted(", ".join(shown)) if shown else "no one"
            raise self._refused(
                peer,
                f"its certificate names {names}, not {self.identities[peer]}.",
            )
        if why := why_denied(chain[0].serial_number, own.denied):
            raise self._refused(peer, f"{why}.")


def _text(offer: Mapping[str, Json], name: str) -> str:
    found = offer[name]
    if not isinstance(found, str):
        raise TypeError(f"`{name}` is no text.")
    return found


def _bytes_of(offer: Mapping[str, Json], name: str) -> bytes:
    return bytes.fromhex(_text(offer, name))
