"""A listener's door: who may come in, how often at a time, and who was turned away.

All listeners have one, whatever carries the chunks. It knows parties by what they show,
gives each so many places and no other's, and counts those that it turns away: what they
do costs a line of the log now and then, and not one each time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from jsplit.wire.pipe import Closed, Denied
from jsplit.wire.said import quoted

AT_A_TIME = 4
"""Connections that one party may have at a time: the one that counts, one that has not
said hello, and as many that end.
"""
_KNOWN = 16
"""Kinds of refusal that are counted apart, and told at once; a table without a bound
would grow with what outsiders think of.
"""
_EVERY = 10.0
"""Seconds between two lines of the log that tell of refusals, once a kind is known."""
_OTHERS = "others"
_log = logging.getLogger("jsplit.wire")


class Door:
    """Lets parties in, each to its own places, and counts who is turned away.

    Args:
        allowed: party by what it shows, a URI or its name.
        clock: seconds, from any beginning.

    Attributes:
        inside: by party, who is in.
        refused: by kind, how often somebody was turned away.

    Example:
        >>> from jsplit.wire.door import Door
        >>> door = Door({"uri:lab": "lab"})
        >>> party, leave = door.enter(["uri:lab"])
        >>> party, len(door.inside["lab"])
        ('lab', 1)
        >>> leave()
        >>> len(door.inside["lab"])
        0
    """

    def __init__(
        self, allowed: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ):
        self.allowed, self.clock = allowed, clock
        self.lock = threading.Lock()
        self.inside: dict[str, set[object]] = {p: set() for p in allowed.values()}
        self.refused: Counter[str] = Counter()
        # What the log has not told yet, and since when.
        self.untold: Counter[str] = Counter()
        self.since = clock()

    def enter(
        self, shown: Sequence[str], origin: str = ""
    ) -> tuple[str, Callable[[], None]]:
        """Let somebody in.

        Args:
            shown: the names in its certificate, or its own name without one.
            origin: where it comes from, for the log.

        Returns:
            The party that it is, and what is to be called when it leaves, once or more
            often.

        Raises:
            Denied: if it is nobody that is known.
            Closed: if it has all its places.
        """
        # A certificate of two parties is none of either.
        found = [self.allowed[name] for name in shown if name in self.allowed]
        if len(found) != 1:
            # Whoever has a certificate of the authority has chosen what stands in it.
            said = quoted(", ".join(shown)) if shown else "no identity"
            raise self.refusal(f"{said} is not on the allow-list", origin)
        party, place = found[0], object()
        with self.lock:
            full = len(self.inside[party]) >= AT_A_TIME
            if not full:
                self.inside[party].add(place)
        if full:
            why = f"`{party}` has {AT_A_TIME} connections already"
            # Soon there may be room again.
            raise Closed(str(self.refusal(why, origin)))

        def leave() -> None:
            with self.lock:
                self.inside[party].discard(place)

        return party, leave

    def refusal(self, kind: str, origin: str = "") -> Denied:
        """Count that somebody is turned away; gives what it is told.

        Args:
            kind: why, in words that are safe to show.
            origin: where it comes from, for the log.
        """
        with self.lock:
            now = self.clock()
            known = kind in self.refused
            counted = kind if known or len(self.refused) < _KNOWN else _OTHERS
            self.refused[counted] += 1
            if counted == kind and not known:
                _log.warning("refused a connection from %s: %s", origin or "here", kind)
            else:
                self.untold[counted] += 1
                # By the next that comes, and not by a thread that waits: when nobody
                # comes any more, the total is told in the end.
                if now - self.since >= _EVERY:
                    more, took = self.untold.total(), now - self.since
                    told = _in_words(self.untold)
                    _log.warning(
                        "refused %d more connections in %.0f s: %s", more, took, told
                    )
                    self.untold.clear()
                    self.since = now
        return Denied(kind)

    def close(self) -> None:
        """Tell the total of those that were turned away, unless each was told."""
        with self.lock:
            total = self.refused.total()
            if total > len(self.refused):
                told = _in_words(self.refused)
                _log.warning("refused %d connections in all: %s", total, told)
            # A listener may be closed twice.
            self.refused.clear()
            self.untold.clear()


def _in_words(counts: Mapping[str, int]) -> str:
    """How often which kind, the most frequent first."""
    often = sorted(counts.items(), key=lambda kind: -kind[1])
    return "; ".join(f"{kind}, {count} times" for kind, count in often)
