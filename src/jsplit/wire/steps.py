"""A set of steps as a compact table, in which a step is found by bisection.

A crossing that is used in some steps only counts its frames over these; see
`jsplit.wire.schedule`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """A set of steps, as the stretches of consecutive steps that it is made of.

    Attributes:
        begins: the first step of each stretch, ascending.
        before: how many steps of the set come before each stretch, and in the end how
            many there are; one entry more than `begins`.
    """

    begins: tuple[int, ...]
    before: tuple[int, ...]

    @staticmethod
    def of(stretches: Iterable[tuple[int, int]]) -> Steps:
        """The set that is made of some stretches.

        Args:
            stretches: `(begin, end)` of each, ascending and apart; `end` is not in it.
        """
        begins: list[int] = []
        before = [0]
        for begin, end in stretches:
            begins.append(begin)
            before.append(before[-1] + end - begin)
        return Steps(tuple(begins), tuple(before))

    def count(self, step: int) -> int:
        """How many steps of the set come before `step`."""
        stretch = bisect_right(self.begins, step) - 1
        if stretch < 0:
            return 0
        # Past the end of its stretch the count stands still until the next one begins.
        reached = self.before[stretch] + step - self.begins[stretch]
        return min(reached, self.before[stretch + 1])

    def has(self, step: int) -> bool:
        """Whether `step` is in the set."""
        stretch = bisect_right(self.begins, step) - 1
        if stretch < 0:
            return False
        length = self.before[stretch + 1] - self.before[stretch]
        return step - self.begins[stretch] < length


NEVER = Steps((), (0,))
"""Of a crossing that is not used at all."""

# One stretch that never ends, so that a run without turns pays one bisection of one
# entry and needs no case of its own.
EVERY_STEP = Steps((0,), (0, 1 << 63))
