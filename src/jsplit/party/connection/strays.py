"""What came by way of the lead and cannot be taken: dropped, counted, and told now and then.

Whoever has sent it, or the lead, is at fault, and the connection is with the lead. So it
ends nothing; if what was meant to come never does, the end of the wait says why.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import MutableMapping, Sequence

_log = logging.getLogger("jsplit.party")
_TELL = 30.0
"""Seconds after which the log has another line of the same sender."""


class Strays:
    """Frames that came by way of the lead and were dropped, by who is said to have sent them.

    Args:
        party: the one that they came to.
        names: of all parties, by their places.
        trouble: by party, what was wrong last; this is noted there.

    Attributes:
        dropped: by place, how many.
    """

    def __init__(
        self, party: str, names: Sequence[str], trouble: MutableMapping[str, str]
    ):
        self.party, self.names, self.trouble = party, names, trouble
        self.dropped: Counter[int] = Counter()
        self.told: dict[int, float] = {}

    def note(self, sender: int, why: str) -> None:
        """Count a frame that was dropped.

        Args:
            sender: who is said to have sent it, by its place.
            why: what is wrong with it.
        """
        self.dropped[sender] += 1
        # Of a party without a connection nothing else is known to be wrong.
        self.trouble[self.names[sender]] = why
        now = time.monotonic()
        if now - self.told.get(sender, -_TELL) >= _TELL:
            self.told[sender] = now
            _log.warning(
                "%s drops what it cannot take, %d so far: %s",
                self.party,
                self.dropped[sender],
                why,
            )

    def found(self, sender: int) -> None:
        """Note that something of a sender could be taken: nothing is wrong any more."""
        if sender in self.told:
            self.trouble.pop(self.names[sender], None)
