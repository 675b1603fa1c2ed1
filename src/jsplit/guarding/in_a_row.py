"""When suspicious windows are an alarm: so many in a row, or so many more than of others.

An honest loss may push all records one way until its bias is learned; who trains a bottom
to leak must go on doing so for thousands of steps. Who pauses after each few windows is
honest in too many of them only if it attacks in few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from jsplit.guarding.evidence import Evidence, Guard, Statistic

PAUSE = 0.25
"""By so much a window without suspicion makes up for one with it."""


def needed(guard: Guard, evidence: Evidence) -> int:
    """How many suspicious windows in a row are an alarm.

    Args:
        guard: the rule.
        evidence: of a window, for the test that it had.

    Returns:
        The number.

    Example:
        >>> from jsplit.guarding import Evidence, Guard, needed
        >>> needed(Guard(), Evidence("h", "one way", 0, 19, 0.4, 0.11))
        10
    """
    return guard.alone if evidence.test == Statistic.ONE_WAY else guard.answered


class Count(NamedTuple):
    """The windows of one value.

    Attributes:
        row: suspicious ones in a row, up to the last.
        held: suspicious ones, less `PAUSE` for each other one; never below 0.
        foul: suspicious ones since `held` was 0.
        windows: all since then.
    """

    row: int = 0
    held: float = 0.0
    foul: int = 0
    windows: int = 0


class Alarms:
    """Counts the suspicious windows of each value, in a row and in all.

    An alarm is as many in a row as `needed`; or as many beyond a quarter of the windows
    that are not suspicious, so that one who attacks in more than a fifth of them is
    found in the end.

    Args:
        guard: how many are an alarm.

    Attributes:
        guard: the same.
        counts: by value.

    Example:
        >>> from jsplit.guarding import Alarms, Evidence, Guard
        >>> alarms = Alarms(Guard(alone=2))
        >>> windows = [Evidence("h", "one way", n, n, 0.4, 0.11) for n in range(3)]
        >>> [alarms.add(e) for e in windows]
        [False, True, True]
    """

    def __init__(self, guard: Guard):
        self.guard = guard
        self.counts: dict[str, Count] = {}

    def add(self, evidence: Evidence) -> bool:
        """Count one window; one of which nothing was measured leaves the count as it is.

        Args:
            evidence: of the next window of its value.

        Returns:
            Whether it is an alarm: it is suspicious, and there are enough of them.

        Example:
            >>> from jsplit.guarding import Alarms, Evidence, Guard
            >>> Alarms(Guard()).add(Evidence("h", "one way", 0, 19, 0.4, 0.11))
            False
        """
        # Else a NaN in each tenth window, that changes nothing, would end every row.
        if math.isnan(evidence.statistic):
            return False
        row, held, foul, windows = self.counts.get(evidence.value, Count())
        if evidence.suspicious:
            now = Count(row + 1, held + 1, foul + 1, windows + 1)
        else:
            # A quarter: an honest run is suspicious in far fewer than a fifth of its
            # windows once it has begun, and one window less must not cost all the rest.
            held = max(held - PAUSE, 0.0)
            now = Count(0, held, foul, windows + 1) if held else Count()
        self.counts[evidence.value] = now
        enough = needed(self.guard, evidence)
        return evidence.suspicious and max(now.row, now.held) >= enough

    def said(self, value: str) -> str:
        """How many windows of a value were suspicious, in words.

        Args:
            value: its name.

        Returns:
            A few words.

        Example:
            >>> from jsplit.guarding import Alarms, Evidence, Guard
            >>> alarms = Alarms(Guard())
            >>> for found in (0.4, 0.1, 0.4):
            ...     _ = alarms.add(Evidence("h", "one way", 0, 19, found, 0.11))
            >>> alarms.said("h")
            '2 of 3 windows'
        """
        count = self.counts.get(value, Count())
        if count.row == count.windows:
            return f"{count.row} windows in a row"
        return f"{count.foul} of {count.windows} windows"

    def any(self, evidence: Iterable[Evidence]) -> bool:
        """Count several windows.

        Args:
            evidence: in order.

        Returns:
            Whether there is an alarm among them.

        Example:
            >>> from jsplit.guarding import Alarms, Guard
            >>> Alarms(Guard()).any([])
            False
        """
        return any([self.add(e) for e in evidence])
