"""What two parties that have no connection send each other by way of the lead: sealed, or nothing worth reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from jsplit.wire import codec
from jsplit.wire.codec import Frame, Head
from jsplit.wire.session import RemoteProtocolError

OVERHEAD = 12 + 16 + codec.LARGEST_HEAD
"""Bytes that sealing adds to a frame, at most: a nonce, a tag, and its head, which is sealed with it."""

Outgoing = list[tuple[int, Frame]]
"""Frames, each with the party that it is for."""


class Seals(Protocol):
    """How frames are sealed between two parties that reach each other only by way of the lead; see `jsplit.wire.seal`."""

    def offer(self, peer: int) -> Mapping[str, Any]:
        """This party's key, and what shows whose it is."""
        ...

    def meet(self, peer: int, instance: int, offer: Mapping[str, Any]) -> bool:
        """Take the peer's key, if it is the peer's; gives whether it is another than before."""
        ...

    def keep(self, instances: Sequence[int]) -> None:
        """Forget the keys of processes other than these."""
        ...

    def has(self, peer: int) -> bool: ...
    def seal(self, frame: Frame) -> Frame: ...
    def open(self, frame: Frame) -> Frame: ...


def passed_on(head: Head, lead: str) -> None:
    """Refuse what must not go by way of the lead as it is."""
    if head.kind not in ("sync", "key") and not (
        head.kind in codec.CARRIERS and head.sealed
    ):
        raise RemoteProtocolError(
            f"{head.kind} came by way of `{lead}` and is not sealed."
        )


def sealed(
    seals: Seals, outgoing: Outgoing, relayed: Callable[[int], bool]
) -> Outgoing:
    """Seal what goes by way of the lead; what cannot be sealed yet is left out, and is asked for again."""
    found = []
    for peer, frame in outgoing:
        if frame.head.kind in codec.CARRIERS and relayed(peer):
            if not seals.has(peer):
                continue
            frame = seals.seal(frame)
        found.append((peer, frame))
    return found
