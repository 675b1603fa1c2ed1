"""One connection of a party, with a thread that writes to it what is due."""

from __future__ import annotations

import threading
from collections import deque

from jsplit.wire.channel import Channel, Closed
from jsplit.wire.codec import CARRIERS, Frame


class Line:
    """A connection, and the frames that are to go out on it; how many they are is bounded by the sessions' windows."""

    def __init__(self, channel: Channel, patience: float):
        self.channel, self.patience = channel, patience
        self.due: deque[Frame] = deque()
        self.changed = threading.Condition()
        self.busy = False
        self.open = True
        self.thread = threading.Thread(target=self.write, name=f"jsplit-write-{channel.peer}", daemon=True)
        self.thread.start()

    def put(self, frame: Frame) -> None:
        with self.changed:
            if not any(f.head.id() == frame.head.id() and f.head.kind in CARRIERS for f in self.due):
                self.due.append(frame)
                self.changed.notify_all()

    def write(self) -> None:
        while True:
            with self.changed:
                self.busy = False
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.due or not self.open)
                if not self.due:
                    return
                frame, self.busy = self.due.popleft(), True
            try:
                self.channel.send(frame, self.patience)
            except (Closed, TimeoutError) as error:
                self.close(str(error))
                return

    def flush(self, timeout: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not self.open or not self.due and not self.busy, timeout)

    def close(self, reason: str, wait: float = 0.0) -> None:
        with self.changed:
            self.open = False
            self.due.clear()
            self.changed.notify_all()
        self.channel.close(reason, wait)
