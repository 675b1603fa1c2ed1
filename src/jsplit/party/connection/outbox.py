"""One connection of a party, with a thread that writes to it what is due.

When the connection ends, the thread closes it after all that was due went out.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from jsplit.party.connection.passing import Room
from jsplit.wire.channel import Channel
from jsplit.wire.codec import CARRIERS, Frame
from jsplit.wire.frames import FrameId
from jsplit.wire.pipe import Closed

_LAST = 10.0
"""Seconds that the last frames of a connection have to go out."""

_Due = tuple[FrameId, tuple[bytes, ...]]
"""By what a frame that is due is told from others: its id, and what it says."""


class Outbox:
    """A connection, and the frames that are to go out on it, each once.

    Args:
        channel: the connection.
        patience: seconds that a peer may take to make room for a frame.
        most: frames that may be due at a time; a peer that asks for more and does not
            read loses the connection.
        failed: called with an error that is not the connection's, as of a frame that
            has no form on the wire.

    Attributes:
        due: what is to go out, in order.
        busy: whether a frame is on its way out.
        broken: whether something that was due never went out.
        ends: when the connection is closed at the latest; `None` while it goes on.
        goodbye: whether the peer has said goodbye on it.
    """

    def __init__(
        self,
        channel: Channel,
        patience: float,
        most: int,
        failed: Callable[[Exception], None],
    ):
        self.channel, self.patience, self.most = channel, patience, most
        self.failed = failed
        self.due: OrderedDict[_Due, Frame] = OrderedDict()
        self.changed = threading.Condition()
        self.busy = self.broken = self.goodbye = False
        self.ends: float | None = None
        self.reason = ""
        name = f"jsplit-write-{channel.peer}"
        self.thread = threading.Thread(target=self._write, name=name, daemon=True)
        self.thread.start()

    def put(self, frame: Frame, room: Room | None = None) -> None:
        """Let a frame go out, unless the same is due or the connection ends.

        Args:
            frame: what is to go out.
            room: what its sender may have due here at a time, if this party passes it
                on; what is beyond that is dropped, and its receiver asks for it again.
        """
        # The id of a value tells all of it; control frames are told apart by what they
        # say. What a sealed one says nobody can tell here, and no two are alike.
        text: tuple[bytes, ...] = ()
        is_value, sealed = frame.head.kind in CARRIERS, frame.head.sealed
        is_sign = frame.head.kind == "sign"
        if not is_value and not sealed and not is_sign:
            text = tuple(array.tobytes() for array in frame.arrays)
        at = frame.head.id(), text
        with self.changed:
            if room is not None and not room.made(self.due, frame):
                return
            if self.ends is None:
                # States both, so the newest is enough; a line that stands still would
                # else be full of what was said at every reminder. To the end with it:
                # seals are opened in the order in which they were made.
                if sealed and not is_value or is_sign:
                    self.due.pop(at, None)
                self.due.setdefault(at, frame)
                self.changed.notify_all()
            full = len(self.due) > self.most
        # Outside of the lock, because cutting takes it; and a queue without a bound
        # would let a peer that asks and never reads take all memory.
        if full:
            self.cut(
                f"`{self.channel.peer}` does not read what it is sent, {self.most} frames were due."
            )

    def _write(self) -> None:
        try:
            while frame := self._next():
                self.channel.send(frame, self.patience)
        except (Closed, TimeoutError) as error:
            self.cut(str(error))
        except Exception as error:
            # The peer hears why it was cut, and of what this party computes nothing.
            self.cut("a frame could not be sent.")
            # Not the peer's doing: without this party all others would wait for it.
            self.failed(error)
        else:
            self.channel.close(self.reason, self.left)

    def _next(self) -> Frame | None:
        """The frame that goes out next; none if the connection ends."""
        with self.changed:
            self.busy = False
            self.changed.wait_for(lambda: self.due or self.ends is not None)
            if not self.due:
                return None
            # Set before the lock is let go: in between it would look as if all had gone
            # out.
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
        """Close the connection when all that is due went out; `join` waits for that."""
        with self.changed:
            if self.ends is None:
                self.reason, self.ends = reason, time.monotonic() + _LAST
            self.changed.notify_all()

    def join(self) -> None:
        """Wait until a connection that ends is closed, for `_LAST` seconds at most."""
        self.thread.join(self.left)
        # Whoever still writes after that time is stopped by it.
        self.channel.close(self.reason)

    def cut(self, reason: str) -> None:
        """Close the connection at once. What is due is asked for on the next one."""
        with self.changed:
            self.broken = self.broken or self.busy or bool(self.due)
            self.due.clear()
            self.reason, self.ends = self.reason or reason, time.monotonic()
            self.changed.notify_all()
        self.channel.close(reason)
