"""The sessions that a serving party has: how many at most, and which it lets go of.

Read by threads that judge heads, changed by the one that computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jsplit.party.serving.course import Course
from jsplit.party.serving.lines import Line

_REMEMBERED = 1000
"""Sessions of which it is known why they are over."""


@dataclass
class Entry:
    """One session.

    Attributes:
        course: what is computed of it here.
        line: the connection of whoever asks.
        cast: by role, who plays it.
        used: when something came of it last.
        ids: of the records of the call under way, where this party looks them up.
        count: how many positions, or records, that call has; 0 before it.
    """

    course: Course
    line: Line
    cast: Mapping[str, str]
    used: float
    ids: list | None = None
    count: int = 0

    def takes(self, line: Line) -> bool:
        """Whether a connection is that of who asks, or of a party that serves it too."""
        # Another process of whoever asks has sessions of its own.
        others = {*self.cast.values()} - {self.line.peer}
        return line is self.line or line.peer in others


class Table:
    """Sessions by their numbers.

    Args:
        most: how many there may be.
        idle: seconds without a call after which one may be let go of.
        clock: seconds, from any beginning.

    Attributes:
        evicted: how many were let go of because they were idle.
    """

    def __init__(
        self, most: int, idle: float, clock: Callable[[], float] = time.monotonic
    ):
        self.most, self.idle, self.clock = most, idle, clock
        self.evicted = 0
        self._lock = threading.Lock()
        self._there: dict[int, Entry] = {}
        self._why: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._there)

    def get(self, number: int) -> Entry | None:
        """A session, if it is there."""
        with self._lock:
            return self._there.get(number)

    def why(self, number: int) -> str:
        """Why a session is not there."""
        with self._lock:
            return self._why.get(number, "there is no such session here")

    def room(self) -> bool:
        """Whether there is room for one more, after those that are idle have gone."""
        self.sweep()
        with self._lock:
            return len(self._there) < self.most

    def add(self, number: int, entry: Entry) -> None:
        """Take a session in."""
        with self._lock:
            self._there[number] = entry

    def touch(self, entry: Entry) -> None:
        """Note that something has come of a session."""
        entry.used = self.clock()

    def drop(self, number: int, why: str) -> None:
        """Let go of a session, with its caches."""
        with self._lock:
            if self._there.pop(number, None) is not None:
                self._why[number] = why
                if len(self._why) > _REMEMBERED:
                    del self._why[next(iter(self._why))]

    def drop_of(self, line: Line) -> None:
        """Let go of the sessions of a connection that is over."""
        with self._lock:
            gone = [n for n, entry in self._there.items() if entry.line is line]
        for number in gone:
            self.drop(number, "its connection is over")

    def sweep(self) -> None:
        """Let go of sessions that are idle."""
        now = self.clock()
        with self._lock:
            gone = [n for n, e in self._there.items() if now - e.used >= self.idle]
        for number in gone:
            self.evicted += 1
            self.drop(number, f"it was idle for {self.idle:g} s and was let go of")
