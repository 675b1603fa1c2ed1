"""One connection of a party, with a thread that writes to it what is due, and that closes it when all of that went out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from jsplit.wire.channel import Channel, Closed
from jsplit.wire.codec import CARRIERS, Frame

_LAST = 10.0
"""Seconds that the last frames of a connection have to go out."""


class Outbox:
    """A connection, and the frames that are to go out on it, each once.

    Args:
        channel: the connection.
        patience: seconds that a peer may take to make room for a frame.
        most: frames that may be due at a time; a peer that asks for more and does not read loses the connection.
        failed: called with an error that is not the connection's, as of a frame that has no form on the wire.
    """

    def __init__(
        self,
        channel: Channel,
        patience: float,
        most: int,
        failed: Callable[[Exception], None],
    ):
        self.channel, self.patience, self.most, self.failed = (
            channel,
            patience,
            most,
            failed,
        )
        self.due: OrderedDict[tuple, Frame] = OrderedDict()
        self.changed = threading.Condition()
        self.busy = self.broken = False
        self.ends: float | None = None
        self.reason = ""
        self.thread = threading.Thread(
            target=self.write, name=f"jsplit-write-{channel.peer}", daemon=True
        )
        self.thread.start()

    def put(self, frame: Frame) -> None:
        """Let a frame go out, unless the same is due already, or the connection ends."""
        same = (
            ()
            if frame.head.kind in CARRIERS
            else tuple(x.tobytes() for x in frame.arrays)
        )
        with self.changed:
            if self.ends is None:
                self.due.setdefault((frame.head.id(), same), frame)
                self.changed.notify_all()
            full = len(self.due) > self.most
        if full:
            self.cut(
                f"`{self.channel.peer}` does not read what it is sent, {self.most} frames were due."
            )

    def write(self) -> None:
        try:
            while frame := self.next():
                self.channel.send(frame, self.patience)
        except (Closed, TimeoutError) as error:
            self.cut(str(error))
        except (
            Exception
        ) as error:  # not the peer's doing: without this party, all would wait for it
            self.cut(str(error))
            self.failed(error)
        else:
            self.channel.close(self.reason, self.left)

    def next(self) -> Frame | None:
        """The frame that goes out next; none if the connection ends."""
        with self.changed:
            self.busy = False
            self.changed.wait_for(lambda: self.due or self.ends is not None)
            if not self.due:
                return None
            self.busy = True
            return self.due.popitem(last=False)[1]

    @property
    def left(self) -> float:
        """Seconds until a connection that ends is closed at the latest."""
        return max((self.ends or 0.0) - time.monotonic(), 0.0)

    @property
    def idle(self) -> bool:
        """Whether all that was put went out."""
        with self.changed:
            return not (self.due or self.busy or self.broken)

    def end(self, reason: str) -> None:
        """Close the connection after all that is due went out; `join` waits until that is done, for `_LAST` seconds at most."""
        with self.changed:
            if self.ends is None:
                self.reason, self.ends = reason, time.monotonic() + _LAST
            self.changed.notify_all()

    def join(self) -> None:
        self.thread.join(self.left)
        self.channel.close(self.reason)

    def cut(self, reason: str) -> None:
        """Close the connection at once. What is due is lost, and asked for on the next one."""
        with self.changed:
            self.broken = self.broken or self.busy or bool(self.due)
            self.due.clear()
            self.reason, self.ends = self.reason or reason, time.monotonic()
            self.changed.notify_all()
        self.channel.close(reason)
