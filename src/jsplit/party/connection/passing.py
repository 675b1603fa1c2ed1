"""How much of what others send one another may be due at the lead, which passes it on.

A receiver may read slowly, or its line stand still, and a sender may send without an
end: neither may take the lead's memory, nor the place of what others send. What has no
room is dropped. Its sender keeps it, and its receiver asks for it again.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TypeVar

from jsplit.wire.codec import Frame
from jsplit.wire.layout import LARGEST_TEXT, head_size_of, size_of
from jsplit.wire.terms import Terms

At = TypeVar("At")
SPARE = 8
"""Frames that may be due from one party to another beyond values: keys, and what each has."""
_AROUND = 1024
"""Bytes that a seal adds to a head and its arrays, and more."""


@dataclass(frozen=True)
class Room:
    """What one party may have due at a time for another, by way of the lead.

    Attributes:
        frames: how many.
        bytes: how many they take; but a hand-over, of which the lead does not know the
            size, is due once on each wire, whatever it takes.
    """

    frames: int
    bytes: int

    def made(self, due: MutableMapping[At, Frame], frame: Frame) -> bool:
        """Let go of what is void, and tell whether there is room for a frame.

        Args:
            due: what is to go out to its receiver; what its sender sent in another epoch
                is taken out.
            frame: what comes.
        """
        head, count, size = frame.head, 0, 0
        keys: list[At] = []
        for at, other in list(due.items()):
            its = other.head
            if its.sender != head.sender or its.id() == head.id() and its.sealed:
                continue
            if its.epoch != head.epoch:
                del due[at]
                continue
            if its.kind == "key":
                keys.append(at)
            count += 1
            if its.kind != "weights":
                size += its.size
            elif head.kind == "weights" and its.value == head.value:
                return False
        # Every offer has a signature of its own, so a line that stands still would fill up
        # with them: the first, which stands before what it opens, and the newest do.
        if head.kind == "key" and len(keys) > 1:
            del due[keys[-1]]
            count -= 1
        fits = head.kind == "weights" or not size or size + head.size <= self.bytes
        return fits and count < self.frames


def room_of(terms: Terms, sender: int, receiver: int) -> Room:
    """The room for all that one party may send another before it has heard of it.

    Args:
        terms: of the run.
        sender: by its place.
        receiver: likewise.
    """
    frames, size = SPARE, LARGEST_TEXT
    for wire in terms.between(sender, receiver):
        most = terms.window * terms.frames(wire)
        frames += most
        if terms.crossings[wire].kind != "weights":
            shapes = terms.shapes_of(wire, 0)
            size += most * (size_of(shapes) + head_size_of(shapes) + _AROUND)
    return Room(frames, size)
