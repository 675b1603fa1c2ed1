"""Channels carry whole frames between two parties, in order, at the reader's pace.

A channel has `peer`, `send`, `receive` and `close`. `Ends` is one over two pipes,
whatever moves the chunks between them: gRPC (`jsplit.wire.rpc`), or nothing at all
(`jsplit.wire.memory`).
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from jsplit.wire.chunks import Assembler, split_up
from jsplit.wire.codec import Accept, Frame, Head
from jsplit.wire.pipe import Closed, Pipe

CHUNK = 1 << 19
"""Bytes that are sent at a time: large enough that a chunk costs little, and small
enough that one side decrypts while the other encrypts, and that allocators keep what
they give for it.
"""


class Channel(Protocol):
    """One side of a connection. `send` and `receive` may be called from two threads.

    Attributes:
        peer: the party at the other end, as its certificate says.
    """

    peer: str

    def send(self, frame: Frame, timeout: float) -> None:
        """Send a frame; returns when it has left this party, not when it has come.

        Raises:
            TimeoutError: if there is no room for `timeout` seconds; nothing was sent
                then.
            Closed: if the channel is closed, or half the frame had gone out.
        """
        ...

    def receive(self, timeout: float) -> Frame:
        """The next frame.

        Raises:
            TimeoutError: if none is whole within `timeout` seconds; it may still come.
            Closed: after the last frame.
        """
        ...

    def close(self, reason: str = "", wait: float = 0.0) -> None:
        """Close both ways.

        Args:
            reason: why, for whoever still sends or receives.
            wait: seconds that what was sent before has to go out. What came before can
                still be received.
        """
        ...


def accept_all(head: Head) -> None:
    """Refuse no frame: for who judges heads elsewhere, or not at all."""


class Ends:
    """A channel over two pipes.

    Args:
        peer: the party at the other end.
        outward: what is sent goes into it.
        inward: what is received comes out of it.
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
        accept: Accept = accept_all,
        chunk: int = CHUNK,
    ):
        self.peer, self.outward, self.inward, self.chunk = peer, outward, inward, chunk
        # One assembler for the whole connection: a frame may begin in one `receive`
        # that times out, and end in the next.
        self.assembler = Assembler(limit, accept)
        self.sending = threading.Lock()

    def send(self, frame: Frame, timeout: float) -> None:
        """Send a frame; see `Channel.send`."""
        # Two frames whose chunks mix could not be told apart at the other end.
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
        """The next frame; see `Channel.receive`."""
        end = time.monotonic() + timeout
        while True:
            chunk = self.inward.get(max(end - time.monotonic(), 0))
            try:
                frame = self.assembler.feed(chunk)
            except Exception as error:
                # After bytes that are no frame nobody knows where the next one begins.
                self.close(str(error))
                raise
            if frame is not None:
                return frame

    def close(self, reason: str = "", wait: float = 0.0) -> None:
        """Close both ways; see `Channel.close`."""
        self.outward.close(reason)
        self.inward.close(reason)
        # After both are closed: a peer that still sends would else be waited for too.
        self.outward.drain(wait)
