"""What passes the lead between two parties without a connection: it is sealed.

`Seals` is what a party needs for it; `jsplit.wire.seal` is the one there is. Which
frames may go this way unsealed is for `jsplit.wire.admission` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeGuard

from jsplit.wire import codec
from jsplit.wire.codec import Frame
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.json_types import Json

OVERHEAD = 12 + 16 + codec.LARGEST_HEAD
"""Bytes that sealing adds to a frame, at most: a nonce, a tag, and its head, which is
sealed with it.
"""

SEALED_KINDS = (*codec.CARRIERS, "sync")
"""What two parties exchange by way of the lead, which sees none of it: values, and what
each says that it has.
"""

Outgoing = list[tuple[int, Frame]]
"""Frames, each with the party that it is for."""


class Seals(Protocol):
    """How frames are sealed between two parties that reach each other by the lead."""

    def offer(self, peer: int) -> Mapping[str, str]:
        """This party's key, and what shows whose it is."""
        ...

    def meet(self, peer: int, instance: int, offer: Mapping[str, Json]) -> bool:
        """Take the peer's key, if it is the peer's.

        Args:
            peer: who sent it.
            instance: its process.
            offer: what its `offer` gave.

        Returns:
            Whether the peer is to be answered: it is another than before, or the peer
            does not know this party's.
        """
        ...

    def keep(self, instances: Sequence[int]) -> None:
        """Forget the keys of processes other than these, one of each party."""
        ...

    def has(self, peer: int) -> bool:
        """Whether the key of a party is known."""
        ...

    def seal(self, frame: Frame) -> Frame:
        """The frame, readable for its receiver alone."""
        ...

    def open(self, frame: Frame) -> Frame | None:
        """The inverse of `seal`; nothing of a frame that was opened before."""
        ...


def seal_relayed(
    seals: Seals, outgoing: Outgoing, relayed: Callable[[int], bool]
) -> Outgoing:
    """Seal what goes by way of the lead.

    Args:
        seals: of this party.
        outgoing: what is to be sent.
        relayed: whether a party is reached by way of the lead.
    """
    found: Outgoing = []
    for peer, frame in outgoing:
        if frame.head.kind in SEALED_KINDS and relayed(peer):
            if not seals.has(peer):
                # Left out and not an error: the session keeps values, and the peer asks
                # for them again when the keys are there.
                continue
            frame = seals.seal(frame)
        found.append((peer, frame))
    return found


def can_open(seals: Seals | None, frame: Frame, who: str) -> TypeGuard[Seals]:
    """Whether the key of a sealed frame's sender is known.

    Args:
        seals: of this party, if it has any.
        frame: what came.
        who: its sender's name.

    Raises:
        RemoteProtocolError: if this party cannot open any.
    """
    if seals is None:
        raise RemoteProtocolError(
            f"`{who}` sent a sealed frame, this party cannot open any."
        )
    return seals.has(frame.head.sender)
