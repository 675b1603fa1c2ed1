"""The calls of which all is there and nothing computed yet, and how long they may wait.

They wait for others to be computed with, and never longer than they were told: not for a
session that is slow, nor one that is dead.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from jsplit.party.serving.lines import Line
from jsplit.party.serving.table import Entry
from jsplit.wire.codec import Frame

_POLL = 0.2
"""Seconds that are waited for anything to come, where nobody waits for a result."""


class Waiting(NamedTuple):
    """A call that can be computed.

    Attributes:
        line: on which the last of it came.
        frame: that last.
        entry: its session.
    """

    line: Line
    frame: Frame
    entry: Entry


class WaitingRoom:
    """Calls that wait.

    Args:
        most: so many do not wait for more.
        wait: seconds that one may be waited for others.
    """

    def __init__(self, most: int, wait: float):
        self.most, self.wait = most, wait
        self._there: dict[int, Waiting] = {}
        self._since, self._passed = 0.0, 0

    def __contains__(self, number: int) -> bool:
        return number in self._there

    def __bool__(self) -> bool:
        return bool(self._there)

    def enter(self, number: int, waiting: Waiting) -> None:
        """Let a call wait.

        Args:
            number: of its session.
            waiting: the call.
        """
        if not self._there:
            self._since, self._passed = time.monotonic(), 0
        self._there[number] = waiting

    def pass_by(self) -> None:
        """Note that something else has come meanwhile."""
        self._passed += 1

    def left(self, sessions: int) -> float:
        """Seconds that may be waited for what comes next; 0: what is there already.

        Args:
            sessions: that there are; where all wait, nobody is waited for.
        """
        if not self._there:
            return _POLL
        if len(self._there) >= min(self.most, sessions):
            return 0.0
        return max(self._since + self.wait - time.monotonic(), 0.0)

    def full(self, sessions: int) -> bool:
        """Whether no more is taken before those that wait are computed."""
        # Of somebody who floods this party with what leads to nothing, too.
        there = len(self._there)
        return there > 0 and (there >= min(self.most, sessions) or self._passed > there)

    def leave(self) -> list[Waiting]:
        """All that wait, who now are computed."""
        found, self._there = [*self._there.values()], {}
        return found
