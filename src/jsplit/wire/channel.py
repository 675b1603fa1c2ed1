"""Channels carry whole frames between two parties, in order, and stop a sender whose peer does not read.

A channel has `peer`, `send`, `receive` and `close`. `memory_pair` makes one within a process, `rpc` one over a network; both
are two `Pipe`s with something that moves chunks between them, and both pass the same tests.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from jsplit.wire.chunks import Assembler, split_up
from jsplit.wire.codec import Accept, Frame

CHUNK = 1 << 19
"""Bytes that are sent at a time: large enough that a chunk costs little, and small enough that one side decrypts while the
other encrypts, and that allocators keep what they give for it."""
_BOUND = 4
"""Chunks that wait in a pipe; who puts one more waits until there is room."""


class Closed(ConnectionError):
    """The channel is closed, by either side or by what lies between; the message says why."""


class Channel(Protocol):
    """One side of a connection. `send` and `receive` may be called from two threads.

    Attributes:
        peer: the party at the other end, as its certificate says.
    """

    peer: str

    def send(self, frame: Frame, timeout: float) -> None:
        """Raises `TimeoutError` if there is no room for `timeout` seconds, and `Closed`."""
        ...

    def receive(self, timeout: float) -> Frame:
        """Raises `TimeoutError` if no frame is whole within `timeout` seconds, and `Closed` after the last frame."""
        ...

    def close(self, reason: str = "", wait: float = 0.0) -> None:
        """Close both ways. What was sent before has up to `wait` seconds to go out, what came before can still be received."""
        ...


class Pipe:
    """Chunks, one after the other, `_BOUND` at most; what was put in before it was closed can still be taken out."""

    def __init__(self, bound: int = _BOUND):
        self.bound, self.chunks = bound, deque[bytes]()
        self.changed = threading.Condition()
        self.reason: str | None = None

    def put(self, chunk: bytes, timeout: float | None = None) -> None:
        with self.changed:
            if not self.changed.wait_for(
                lambda: self.reason is not None or len(self.chunks) < self.bound,
                timeout,
            ):
                raise TimeoutError(f"the peer has not read for {timeout:g} s.")
            if self.reason is not None:
                raise Closed(self.reason)
            self.chunks.append(chunk)
            self.changed.notify_all()

    def get(self, timeout: float | None = None) -> bytes:
        with self.changed:
            if not self.changed.wait_for(
                lambda: self.reason is not None or self.chunks, timeout
            ):
                raise TimeoutError(f"nothing came for {timeout:g} s.")
            if not self.chunks:
                raise Closed(self.reason)
            self.changed.notify_all()
            return self.chunks.popleft()

    def close(self, reason: str) -> None:
        with self.changed:
            if self.reason is None:
                self.reason = reason or "closed"
            self.changed.notify_all()

    def drain(self, timeout: float) -> None:
        """Wait until all that was put in was taken out."""
        with self.changed:
            self.changed.wait_for(lambda: not self.chunks, timeout)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.get()
            except Closed:
                return


class Ends:
    """A channel over two pipes.

    Args:
        peer: the party at the other end.
        outward, inward: what is sent goes into one, what is received comes out of the other.
        limit: the most bytes that the arrays of one frame may take.
        accept: asked for every head before anything is allocated; raises to refuse it.
        chunk: bytes that are sent at a time.
    """

    def __init__(
        self,
        peer: str,
        outward: Pipe,
        inward: Pipe,
        limit: int,
        accept: Accept = lambda head: None,
        chunk: int = CHUNK,
    ):
        self.peer, self.outward, self.inward, self.chunk = peer, outward, inward, chunk
        self.assembler = Assembler(limit, accept)
        self.sending = threading.Lock()

    def send(self, frame: Frame, timeout: float) -> None:
        with self.sending:
            for number, part in enumerate(split_up(frame, self.chunk)):
                try:
                    self.outward.put(part, timeout)
                except TimeoutError as error:
                    if number:  # half a frame is out, so nothing can follow it
                        self.close(str(error))
                        raise Closed(str(error)) from None
                    raise

    def receive(self, timeout: float) -> Frame:
        end = time.monotonic() + timeout
        while True:
            chunk = self.inward.get(max(end - time.monotonic(), 0))
            try:
                frame = self.assembler.feed(chunk)
            except Exception as error:
                self.close(str(error))
                raise
            if frame is not None:
                return frame

    def close(self, reason: str = "", wait: float = 0.0) -> None:
        self.outward.close(reason)
        self.inward.close(reason)
        self.outward.drain(wait)


def memory_pair(
    a: str,
    b: str,
    limit: int = 1 << 30,
    accept: tuple[Accept, Accept] | None = None,
    chunk: int = CHUNK,
) -> tuple[Ends, Ends]:
    """Two ends of a channel within this process: that of party `a`, whose peer is `b`, and that of `b`."""
    there, back = Pipe(), Pipe()
    ours, theirs = accept or (lambda head: None, lambda head: None)
    return Ends(b, there, back, limit, ours, chunk), Ends(
        a, back, there, limit, theirs, chunk
    )
