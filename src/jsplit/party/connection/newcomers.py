"""Connections that have not said hello: of each party one, the newest, and not too often.

Until its hello nobody knows whether a connection is of any use, so it has a bound in
number and in time, whichever transport it has come by. A party that connects over and
over is slowed down: what that costs is its own time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from jsplit.party.connection.outbox import Outbox

FIRST_WORD = 10.0
"""Seconds that a connection has for its hello, on either side."""
_AT_ONCE = 20.0
"""Connections of one party that are taken without a pause between them."""
_EACH = 1.0
"""Seconds in which one more may come after those. A party whose line is cut every second
is not slowed down by it.
"""
_NEW_PROCESS = 4.0
"""As how many more a connection counts by which all go back: others have more of it than
a line in their logs.
"""


@dataclass
class Pace:
    """How often one party connects, as a bucket that fills with time.

    Attributes:
        spare: connections that it may make without a pause.
        seen: when that was so.
    """

    spare: float = _AT_ONCE
    seen: float = field(default_factory=time.monotonic)

    def pause(self, now: float) -> float:
        """Seconds until the next connection may be taken.

        Args:
            now: as `time.monotonic` has it.
        """
        self.spare = min(self.spare + (now - self.seen) / _EACH, _AT_ONCE)
        self.seen = now
        return max(1.0 - self.spare, 0.0) * _EACH

    def spend(self, connections: float = 1.0) -> None:
        """Count connections that were taken."""
        # Never so far that who waits for its turn would be hung up on by a peer that
        # waits for its hello.
        self.spare = max(self.spare - connections, -_NEW_PROCESS)


class Newcomers:
    """The connections of one party on which the others have not said hello yet.

    Args:
        changed: held by whoever calls a method of this.
        closing: set when the party leaves.

    Attributes:
        newest: by peer, the connection that may still say hello.
        paces: by peer, how often it connects.
    """

    def __init__(self, changed: threading.Condition, closing: threading.Event):
        self.changed, self.closing = changed, closing
        self.newest: dict[int, Outbox] = {}
        self.paces: dict[int, Pace] = {}

    def admit(self, peer: int, outbox: Outbox) -> bool:
        """Let a connection be the newest of its peer, and wait for its turn.

        Args:
            peer: at the other end, by its place.
            outbox: the connection.

        Returns:
            Whether it may say hello: there is no newer one, and this party stays.
        """
        older = self.newest.get(peer)
        self.newest[peer] = outbox
        if older is not None:
            older.cut(f"`{outbox.channel.peer}` has connected once more.")
            self.changed.notify_all()
        pace = self.paces.setdefault(peer, Pace())

        def is_over() -> bool:
            return self.closing.is_set() or not self.is_newest(peer, outbox)

        # The lock is free meanwhile. Only the newest waits, so of a thousand that come at
        # once one is taken in the end.
        over = self.changed.wait_for(is_over, pace.pause(time.monotonic()))
        if not over:
            pace.spend()
        return not over

    def is_newest(self, peer: int, outbox: Outbox) -> bool:
        """Whether a connection may still say hello."""
        return self.newest.get(peer) is outbox

    def greeted(self, peer: int, *, went_back: bool) -> None:
        """Note that the newest connection of a peer has said hello.

        Args:
            peer: who has.
            went_back: whether all go back by it.
        """
        self.newest.pop(peer, None)
        if went_back:
            self.paces[peer].spend(_NEW_PROCESS)

    def gone(self, peer: int, outbox: Outbox) -> None:
        """Forget a connection that has ended."""
        if self.is_newest(peer, outbox):
            del self.newest[peer]
