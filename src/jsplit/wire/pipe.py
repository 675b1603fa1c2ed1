"""Chunks of bytes on their way from one thread to another, bounded.

A channel is two of these, one each way (`jsplit.wire.channel`). The bound is what stops
a sender whose peer does not read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

_BOUND = 4
"""Chunks that wait in a pipe; who puts one more waits until there is room."""


class Closed(ConnectionError):
    """The channel is closed, by either side or on the way; the message says why."""


class Denied(Closed):
    """The other side listens, and does not let this party in: it is not one it knows."""


class Pipe:
    """Chunks, one after the other; what is in a closed pipe can still be taken out.

    Args:
        bound: how many may wait in it.

    Attributes:
        reason: why it is closed, `None` while it is open.
    """

    def __init__(self, bound: int = _BOUND):
        self.bound = bound
        self.chunks: deque[bytes] = deque()
        self.changed = threading.Condition()
        self.reason: str | None = None

    def put(self, chunk: bytes, timeout: float | None = None) -> None:
        """Put a chunk in; waits for room.

        Raises:
            TimeoutError: if there is no room for `timeout` seconds.
            Closed: if the pipe is closed.
        """
        with self.changed:
            if not self.changed.wait_for(self._takes_or_closed, timeout):
                raise TimeoutError(f"the peer has not read for {timeout:g} s.")
            if self.reason is not None:
                raise Closed(self.reason)
            self.chunks.append(chunk)
            self.changed.notify_all()

    def get(self, timeout: float | None = None) -> bytes:
        """Take the next chunk out; waits for one.

        Raises:
            TimeoutError: if none comes for `timeout` seconds.
            Closed: if the pipe is closed, and empty.
        """
        with self.changed:
            if not self.changed.wait_for(self._gives_or_closed, timeout):
                raise TimeoutError(f"nothing came for {timeout:g} s.")
            # Closed and not empty: the last words, as a refusal, are what the other
            # side must hear.
            if not self.chunks:
                raise Closed(self.reason)
            self.changed.notify_all()
            return self.chunks.popleft()

    def _takes_or_closed(self) -> bool:
        return self.reason is not None or len(self.chunks) < self.bound

    def _gives_or_closed(self) -> bool:
        return self.reason is not None or bool(self.chunks)

    def close(self, reason: str) -> None:
        """Let nothing more in; the first reason given counts."""
        with self.changed:
            # What both sides say of the end comes from whoever closed it, not from what followed.
            if self.reason is None:
                self.reason = reason or "closed"
            self.changed.notify_all()

    def abandon(self, reason: str) -> None:
        """Close it, and throw away what is in it: nobody will take that out any more."""
        self.close(reason)
        with self.changed:
            self.chunks.clear()
            # Whoever waits until all was taken out would wait for nothing.
            self.changed.notify_all()

    def drain(self, timeout: float) -> None:
        """Wait until all that was put in was taken out, for up to `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: not self.chunks, timeout)

    def __iter__(self) -> Iterator[bytes]:
        """All chunks until the pipe is closed and empty."""
        while True:
            try:
                yield self.get()
            except Closed:
                return
