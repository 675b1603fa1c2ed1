"""How much of a peer may wait to be computed: what it sends beyond that waits with it.

One thread computes and may be long over it; a peer that meanwhile sends the same large
value again and again would fill the memory of whoever serves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from jsplit.wire.codec import Frame

AHEAD = 1 << 28
"""Bytes of arrays of one connection that may wait; one frame may whatever its size."""


class Ahead:
    """Bytes of one connection that have been read and are not yet computed.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int = AHEAD):
        self._most, self._waiting = most, 0
        self._changed = threading.Condition()

    def enter(self, frame: Frame, over: Callable[[], bool]) -> bool:
        """Wait until there is room for a frame.

        Args:
            frame: that was read.
            over: whether nobody will compute it any more.

        Returns:
            Whether there is room; else it is over.
        """
        size = _size(frame)
        with self._changed:
            while self._waiting and self._waiting + size > self._most:
                # Not for ever: who ends a connection does not know who waits here.
                self._changed.wait(0.2)
                if over():
                    return False
            self._waiting += size
        return True

    def leave(self, frame: Frame) -> None:
        """Note that a frame has been computed."""
        with self._changed:
            self._waiting -= _size(frame)
            self._changed.notify_all()


def _size(frame: Frame) -> int:
    return sum(x.nbytes for x in frame.arrays)
