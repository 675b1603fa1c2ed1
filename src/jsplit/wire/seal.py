"""Sealed from end to end: what two parties send each other by way of a third, the lead.

The lead sees who sends, when and how much, and can read, change or repeat none of it; it can hold
it up, or drop it. What is derived from the keys of both processes (`key_exchange`) encrypts whole
frames with ChaCha20-Poly1305, one key for each direction. A counter is the nonce, so none comes
twice, and a frame that was opened is not opened again. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from jsplit.wire import chunks
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.frames import Frame, frame_of
from jsplit.wire.json_types import Json
from jsplit.wire.key_exchange import KeyExchange
from jsplit.wire.layout import LARGEST_TEXT

_NONCE = 12


@dataclass
class _PeerKeys:
    """What is derived with one peer.

    Attributes:
        public: the peer's public key.
        out: encrypts for the peer.
        back: decrypts what the peer encrypted.
        instance: the peer's process.
        newest: the largest number of a frame that was opened.
    """

    public: bytes
    out: ChaCha20Poly1305
    back: ChaCha20Poly1305
    instance: int
    newest: int = 0


class Sealer:
    """One party's keys for all parties that it reaches by way of the lead.

    What holds against the lead, and against other parties, where all have certificates: a frame
    that is opened was sealed by a process of its sender, which has shown its certificate and has
    signed that it talks to this very process; it is opened once, and in the order in which it was
    sealed. Keys are of two processes and on no disk, so what was sent stays secret if a
    certificate's key becomes known later. Each side knows that the other has the same keys as
    soon as it has opened one frame: what follows the keys at once, a sealed sync.

    Args:
        exchange: its side of the exchange of keys.
        limit: the most bytes that the arrays of one frame may take.
    """

    def __init__(self, exchange: KeyExchange, limit: int):
        self.exchange = exchange
        self.parties = exchange.parties
        self.me = exchange.me
        # What is said in JSON is sealed too, and may be longer than all values.
        self.limit = max(limit, LARGEST_TEXT)
        self.keys: dict[int, _PeerKeys] = {}
        # By peer, its process and the key that is said to be its own, while nothing shows that.
        self.heard: dict[int, tuple[int, bytes]] = {}
        self.count = 0

    @property
    def public(self) -> bytes:
        """This process's public key."""
        return self.exchange.public

    def offer(self, peer: int) -> dict[str, str]:
        """Give this party's key, and what binds it to the peer's, as far as that is known.

        Args:
            peer: for whom, by its place.

        Returns:
            What the body of a frame of the kind "key" says; `meet` of the peer takes it.
        """
        known = self.keys.get(peer)
        _, heard = self.heard.get(peer, (0, b""))
        return self.exchange.offer(peer, known.public if known else heard)

    def meet(self, peer: int, instance: int, offer: Mapping[str, Json]) -> bool:
        """Take the key of a peer, if it is shown to be the peer's.

        Args:
            peer: who it is said to be, by its place.
            instance: number of its process.
            offer: what it offers; the lead has passed it on, and may have changed it.

        Returns:
            Whether the peer is to be answered: its key is new, or it does not know this one's.

        Raises:
            Refused: if it is not shown to be the peer's.
            Astray: if only the time is wrong, by its certificate.
        """
        public, heard = self.exchange.read(peer, offer)
        known = self.keys.get(peer)
        if heard != self.public:
            # It was not made for this process, so nothing in it is believed. The answer is signed
            # for this key and for no other: if the lead has put its own here, the peer will see.
            if known is None:
                self.heard[peer] = instance, public
            return True
        # An offer that is sent again changes nothing, so that its answer is not another offer;
        # and one that was changed on the way cannot end what two parties have begun.
        if known is not None and known.public == public:
            return False
        shared = self.exchange.meet(peer, instance, public, offer)
        derived, own, me = self.exchange.derived, self.public, self.me
        self.keys[peer] = _PeerKeys(
            public,
            out=derived(shared, me, own, peer, public),
            back=derived(shared, peer, public, me, own),
            instance=instance,
        )
        return True

    def keep(self, instances: Sequence[int]) -> None:
        """Forget the keys of processes other than these, given by their parties' places."""
        keys, heard = self.keys.items(), self.heard.items()
        self.keys = {p: own for p, own in keys if own.instance == instances[p]}
        self.heard = {p: own for p, own in heard if own[0] == instances[p]}

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

    def open(self, frame: Frame) -> Frame | None:
        """Decrypt a frame that its sender sealed for this party; the inverse of `seal`.

        Returns:
            What was sealed; nothing if this frame, or one sealed after it, was opened before.

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
        # Whoever sends a frame again seals it anew, and connections keep the order; so what comes
        # out of it was repeated on the way. It does no harm, and does not count.
        number = int.from_bytes(data[:_NONCE], "big")
        if number <= self.keys[peer].newest:
            return None
        self.keys[peer].newest = number
        return found
