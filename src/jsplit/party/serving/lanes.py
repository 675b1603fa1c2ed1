"""Caches of several sessions side by side, and one run of a program for a call of each.

The program of one session is mapped over sessions (`jax.vmap`): nothing is known of what
a cache is, each session has its own position in it, and no session sees another.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line
from jsplit.party.serving.side_by_side import (
    get,
    longer,
    mapped,
    of_one,
    put,
    put_back,
    same,
    taken,
    two,
)
from jsplit.training.sessions import compiled_in_place
from jsplit.training.walk import Address, Store, Turn

_FIRST = 4
"""Lanes at first: for each number of them, programs are compiled anew."""
_log = logging.getLogger("jsplit.party")


class SessionLost(Exception):  # noqa: N818 - whoever asks begins again
    """A session is over that may be begun again."""


class Seated(Protocol):
    """A session that may be in a lane."""

    def settle(self) -> None:
        """Bring its caches back out of the lane."""
        ...


class Lanes:
    """Sessions of one size at one party, each in a lane of its own.

    Args:
        turns: what the party computes of a call, in order.
        base: what all sessions share; no turn writes it.
        kernels: how operations are computed.
        most: how many lanes there may be.

    Attributes:
        broken: whether a run has failed; what was right by itself is not tried again.
    """

    def __init__(
        self,
        turns: Sequence[Turn],
        base: Mapping[Address, PyTree],
        kernels: str,
        most: int,
    ):
        self.turns, self.base, self.most = turns, base, most
        self.broken, self._kernels = False, kernels
        self._caches: Store = {}
        self._held: list[weakref.ref[Seated] | None] = []
        self._steps: dict[tuple[int, bool], Callable[..., tuple]] = {}
        self._fits: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self._held)

    # Lanes.

    def occupied(self) -> list[int]:
        """The lanes whose sessions are there."""
        # A session that is let go of leaves its lane by being gone.
        return [
            i for i, x in enumerate(self._held) if x is not None and x() is not None
        ]

    def enter(self, session: Seated, caches: Store) -> int:
        """Take in the caches of a session.

        Args:
            session: whose they are.
            caches: by the places where they lie; they are used up.

        Returns:
            Its lane.
        """
        taken = {*self.occupied()}
        free = [i for i in range(len(self._held)) if i not in taken]
        if not free:
            free = [len(self._held)]
            self._grow(caches)
        self._held[free[0]] = weakref.ref(session)
        self._caches = put(self._caches, caches, np.int32(free[0]))
        return free[0]

    def check(self, session: object, lane: int) -> None:
        """Refuse a session whose caches are there no more.

        Raises:
            SessionLost: so that it is begun again, and goes on in no other's lane.
        """
        held = self._held[lane] if lane < len(self) else None
        if held is None or held() is not session:
            raise SessionLost("its caches are lost, by a run that failed")

    def leave(self, session: object, lane: int) -> Store:
        """The caches of a session that goes on by itself.

        Raises:
            SessionLost: if they are there no more.
        """
        self.check(session, lane)
        self._held[lane] = None
        return get(self._caches, np.int32(lane))

    def shapes(self) -> Store:
        """The shapes of the caches of one session."""
        return jax.eval_shape(
            lambda every: jax.tree.map(lambda x: x[0], every), self._caches
        )

    def _grow(self, caches: Store) -> None:
        """Twice as many lanes, so that there are few numbers of them."""
        before = len(self._held)
        size = min(max(2 * before, _FIRST), max(self.most, before + 1))
        if before:
            more = partial(longer, size)
            self._caches = jax.tree.map(more, self._caches)
        else:
            # What is in a lane of nobody is of no matter, but must be numbers.
            self._caches = jax.tree.map(lambda x: longer(size, x[None]), caches)
        self._held += [None] * (size - before)

    def tidy(self) -> None:
        """Keep no more than two lanes for each session that is there."""
        there = [x() for x in self._held if x is not None]
        left = [session for session in there if session is not None]
        if len(self) <= 2 * len(left):
            return
        # By their next run together they come back, in fewer lanes.
        for session in left:
            session.settle()
        self._caches, self._held = {}, []

    def lose(self) -> None:
        """Let go of what a run that failed has used up, and run nothing again."""
        self.broken = True
        self._caches, self._held = {}, []

    # Runs.

    def run(
        self, place: int, lanes: Sequence[int], given: Sequence[Sequence[PyTree]]
    ) -> list[tuple]:
        """Run one turn for several sessions; their caches go on.

        Args:
            place: of the turn.
            lanes: of the sessions.
            given: by session, what the turn reads beyond caches and what all share.

        Returns:
            By session, what the turn writes; `None` in the place of caches.
        """
        together = sorted({*lanes}) == self.occupied()
        # In the place where they lie, if that is not twice the work.
        whole = together and 2 * len(lanes) > len(self)
        width = 1 << (len(lanes) - 1).bit_length()
        at: list[int | None] = [*range(len(lanes)), *[None] * (width - len(lanes))]
        if whole:
            at = [lanes.index(i) if i in lanes else None for i in range(len(self))]
        # What is computed for nobody is what is computed for the first, in its lane.
        stacked = jax.tree.map(
            lambda *x: np.stack([np.asarray(x[i or 0]) for i in at]), *map(tuple, given)
        )
        chosen = np.array([lanes[i or 0] for i in at], np.int32)
        step = self._step(place, whole)
        shared = [self.base[r] for r in self.turns[place].reads if r in self.base]
        self._caches, results = step(self._caches, chosen, shared, stacked)
        # All at once from the device, and then a part for each.
        arrays = jax.tree.map(np.asarray, results)
        rows = [at.index(k) for k in range(len(lanes))]
        return [jax.tree.map(lambda x, row=row: x[row], arrays) for row in rows]

    def fits(
        self, place: int, caches: Callable[[], Store], given: Sequence[PyTree]
    ) -> bool:
        """Whether a turn can be mapped over sessions, and gives what it gives for one.

        Args:
            place: of the turn.
            caches: gives those of one session, or their shapes; asked for once.
            given: to it, as in `run`.
        """
        if place not in self._fits:
            self._fits[place] = self._maps(place, caches(), given)
        return self._fits[place]

    def _maps(self, place: int, caches: Store, given: Sequence[PyTree]) -> bool:
        turn, base = self.turns[place], self.base
        if any(w in base for w in turn.writes):
            return False
        shared = [base[r] for r in turn.reads if r in base]
        two_caches, two_given = two(caches), two(tuple(given))
        try:
            alone = jax.eval_shape(
                partial(of_one, turn, base), shared, caches, tuple(given)
            )
            both = jax.eval_shape(
                partial(mapped, turn, base), shared, two_caches, two_given
            )
        except Exception as error:
            # As of what calls back to Python, or a kernel that has no such rule.
            _log.warning("sessions are not computed together: %s", first_line(error))
            return False
        # A cache that grows has no lane, and one of a Python number, which takes the
        # dtype of what it is added to, would be of another dtype in one.
        goes_on = same(alone[0], caches)
        if not goes_on or not same(both, two(alone)):
            _log.warning(
                "sessions are not computed together: what they keep, or give, has "
                "another shape or dtype side by side than alone."
            )
            return False
        return True

    def _step(self, place: int, whole: bool) -> Callable[..., tuple]:
        at = (place, whole)
        if at not in self._steps:
            turn, base = self.turns[place], self.base

            def run(
                caches: Store,
                chosen: jax.Array,
                shared: Sequence[PyTree],
                given: tuple,
            ) -> tuple[Store, tuple]:
                if whole:
                    return mapped(turn, base, shared, caches, given)
                own = jax.tree.map(lambda x: taken(x, chosen), caches)
                own, results = mapped(turn, base, shared, own, given)
                back = lambda x, new: put_back(x, new, chosen)  # noqa: E731
                return jax.tree.map(back, caches, own), results

            self._steps[at] = compiled_in_place(run, self._kernels)
        return self._steps[at]
