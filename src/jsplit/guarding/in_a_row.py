"""When suspicious windows are an alarm: only so many in a row, so that a start is none.

An honest loss may push all records one way until its bias is learned; who trains a bottom
to leak must go on doing so for thousands of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from jsplit.guarding.evidence import Evidence, Guard, Statistic


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


class Alarms:
    """Counts the suspicious windows in a row of each value.

    Args:
        guard: how many are an alarm.

    Example:
        >>> from jsplit.guarding import Alarms, Evidence, Guard
        >>> alarms = Alarms(Guard(alone=2))
        >>> windows = [Evidence("h", "one way", n, n, 0.4, 0.11) for n in range(3)]
        >>> [alarms.add(e) for e in windows]
        [False, True, True]
    """

    def __init__(self, guard: Guard):
        self.guard = guard
        self.in_a_row: dict[str, int] = {}

    def add(self, evidence: Evidence) -> bool:
        """Count one window; one of which nothing was measured leaves the count as it is.

        Args:
            evidence: of the next window of its value.

        Returns:
            Whether it is an alarm.

        Example:
            >>> from jsplit.guarding import Alarms, Evidence, Guard
            >>> Alarms(Guard()).add(Evidence("h", "one way", 0, 19, 0.4, 0.11))
            False
        """
        # Else a NaN in each tenth window, that changes nothing, would end every row.
        if math.isnan(evidence.statistic):
            return False
        row = self.in_a_row.get(evidence.value, 0) + 1 if evidence.suspicious else 0
        self.in_a_row[evidence.value] = row
        return row >= needed(self.guard, evidence)

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
