"""Which of the sessions that wait are computed in one run: calls of one size, of one program.

A batch of many sessions reads the parameters once for all of them, and most of the time
of a token is that.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence

from jsplit.core.base import PyTree
from jsplit.core.recent import Recent
from jsplit.party.serving.course import Course
from jsplit.party.serving.lanes import Lanes

_SIZES = 16
"""Sizes of sessions that have lanes; of more at a time, the one unused longest has new
ones."""


class Together:
    """Computes several sessions at once.

    Args:
        most: sessions of a run; 1: each by itself.
        sessions: that there are at a time, at most.
    """

    def __init__(self, most: int, sessions: int):
        self.most, self.sessions = most, sessions
        self._lanes: Recent[Lanes] = Recent(_SIZES)
        # Those too that are no longer kept, and hold caches of sessions still.
        self._all: weakref.WeakSet[Lanes] = weakref.WeakSet()

    def groups(self, courses: Sequence[Course]) -> list[list[int]]:
        """Sessions whose next programs are one run, by their places in `courses`.

        Args:
            courses: which have all that their next programs wait for.

        Returns:
            Each once; the short calls before those that are long and alone.
        """
        found: dict[Hashable, list[int]] = {}
        alone: list[list[int]] = []
        for i, course in enumerate(courses):
            kin = course.kin if self.most > 1 else None
            if kin is None:
                alone.append([i])
            else:
                found.setdefault(kin, []).append(i)
        parts = []
        for group in found.values():
            parts += [group[k : k + self.most] for k in range(0, len(group), self.most)]
        return [*parts, *alone]

    def run(self, courses: Sequence[Course]) -> list[Sequence[PyTree]] | None:
        """Run the next program of several sessions.

        Args:
            courses: of one group.

        Returns:
            By session, what the program gave; `None` if each must be run by itself.

        Raises:
            SessionLost: if the caches of some are lost.
        """
        first = courses[0]
        lanes = self._lanes_of(first)
        given = [course.given(lanes) for course in courses]
        place = first.place % len(lanes.turns)
        if lanes.broken or not lanes.fits(place, first.caches, given[0]):
            return None
        at = [course.lane(lanes) for course in courses]
        try:
            return [*lanes.run(place, at, given)]
        except BaseException:
            lanes.lose()
            raise

    def _lanes_of(self, course: Course) -> Lanes:
        part = course.part

        def make() -> Lanes:
            kernels = part.config.kernels
            made = Lanes(part.turns(), part.base, kernels, self.sessions)
            self._all.add(made)
            return made

        sizes = part, course.batch, course.length, course.count
        return self._lanes.of(sizes, make)

    def tidy(self) -> None:
        """Let go of lanes that are too many for the sessions that there are."""
        # So all sizes together have no more than twice as many as there are sessions.
        for lanes in [*self._all]:
            lanes.tidy()
