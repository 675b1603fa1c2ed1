"""How long others are waited for: who computes is waited for, who is silent is away.

Each party says every few seconds what it is at. While somebody is at work, or gets on,
patience begins anew for all; but only for so long as a party may stand at one step. What
others say of their work and of their steps may be false, so both are counted in the time
that this party has waited for them, and only so far as the run lets anybody get on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from jsplit.wire.signs import Sign

_SLOWEST, _AT_LEAST = 5.0, 4
"""Seconds between two signs at most, and how many there are within patience."""
_AHEAD = 8
"""Steps that another party may be ahead, where nothing is known of the run."""


@dataclass
class Seen:
    """What is known of another party, by the clock of this one.

    Nothing is taken from what the other says of time: a party that says that it is at
    work for ever is found out all the same.

    Attributes:
        heard: when it last said anything new.
        sign: what that was.
        furthest: the furthest that it has ever been, epoch and step.
        active: when it was last at work, or got on.
        spent: seconds for which it has been waited for as one at work, since it last got
            on.
        worked: whether it has said that it is at work since then.
        stalled: since when that has been too long.
    """

    heard: float
    sign: Sign | None = None
    furthest: tuple[int, int] = (-1, -1)
    active: float = 0.0
    spent: float = 0.0
    worked: bool = False
    stalled: float | None = None


class Vigil:
    """What this party says of its own work, and what it makes of what others say.

    Args:
        others: by their places.
        patience: seconds that a party is waited for that is away.
        stall: seconds of work that a party may take for one step.
        ahead: by how many steps another party may be ahead of this one.

    Attributes:
        waits: whether this party waits for others at the moment.
        step: how many steps it has finished.
        seen: by place, what is known of others.
        began: since when this party waits, or last did.
        suspected: by place, the step at which a party was last taken for the one that
            all wait for.
    """

    def __init__(
        self,
        others: Mapping[int, object],
        patience: float,
        stall: float,
        ahead: int = _AHEAD,
    ):
        self.pause = min(_SLOWEST, patience / _AT_LEAST)
        self.patience, self.stall, self.ahead = patience, stall, ahead
        self.waits, self.step, self.number = False, 0, 0
        now = time.monotonic()
        self.began = now
        self.suspected: dict[int, int] = {}
        # Whoever never comes is silent from the beginning.
        self.seen = {place: Seen(now) for place in others}
        self._ended = threading.Event()

    # What this party says.

    def sign(self, epoch: int) -> Sign:
        """What this party is at."""
        self.number += 1
        return Sign(self.number, epoch, self.step, not self.waits)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For as long as this party waits for others."""
        self.began = time.monotonic()
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def give(self, say: Callable[[], object]) -> threading.Thread:
        """Start the thread that says it, until `end`.

        Args:
            say: sends what `sign` gives.
        """

        def work() -> None:
            while not self._ended.wait(self.pause):
                say()

        # A thread of its own: the one that computes may be in a program, or in the
        # user's data, for a long time. A process that is stopped says nothing.
        thread = threading.Thread(target=work, name="jsplit-signs", daemon=True)
        thread.start()
        return thread

    def end(self) -> None:
        """Say no more."""
        self._ended.set()

    # What others say.

    def greeted(self, place: int) -> None:
        """Note that a party has said hello."""
        self.seen[place].heard = time.monotonic()

    def hear(self, signs: Mapping[int, Sign], epoch: int) -> None:
        """Take note of what others say.

        Args:
            signs: by place, as they have come.
            epoch: that this party is in; nobody gets on by naming a later one.
        """
        now = time.monotonic()
        # Before any of these counts: who says something for several at once does not
        # make each the reason that nobody has waited for the others.
        quiet = self.quiet_since(self.began if self.waits else now)
        for place, sign in signs.items():
            seen = self.seen.get(place)
            # What the lead passes on once more is no new sign of whom it is of.
            if seen is None or sign == seen.sign:
                continue
            before, seen.sign = seen.sign, sign
            passed, seen.heard = now - seen.heard, now
            epoch_of, step = sign.progress
            # Nobody can have done steps that the run does not let it do yet.
            progress = min(epoch_of, epoch), min(step, self.step + self.ahead)
            if progress > seen.furthest:
                seen.furthest, seen.active = progress, now
                seen.spent, seen.stalled, seen.worked = 0.0, None, False
            elif sign.computes:
                self._charge(seen, before, passed, now, quiet)

    def _charge(
        self, seen: Seen, before: Sign | None, passed: float, now: float, quiet: float
    ) -> None:
        """Count what a party that says it is at work is waited for by that.

        Args:
            seen: of that party.
            before: what it said before.
            passed: seconds since then.
            now: the time.
            quiet: since when nobody was at work, until now.
        """
        if before is None or not before.computes:
            # Else one that says by turns that it is at work and that it waits would be
            # waited for without end. Time in which another was at work is not counted,
            # nor what goes before its first work on a step: then it may have waited.
            passed = min(self.patience, now - quiet) if seen.worked else 0.0
        seen.spent += passed
        seen.worked = True
        if seen.spent < self.stall:
            seen.active = now
        elif seen.stalled is None:
            seen.stalled = now

    def quiet_since(self, began: float) -> float:
        """Since when nobody has been at work.

        Args:
            began: since when this party waits.
        """
        return max([began, *(seen.active for seen in self.seen.values())])

    def away_since(self, place: int) -> float:
        """Since when a party has been silent, or at work for too long."""
        seen = self.seen[place]
        return seen.heard if seen.stalled is None else seen.stalled

    def standing(self) -> dict[int, str]:
        """By place, who stands at a step for too long, in words."""
        found = {}
        for place, seen in self.seen.items():
            if seen.stalled is not None:
                found[place] = (
                    f"is there and has been at step {seen.furthest[1] + 1} for "
                    f"{seen.spent:.0f} s, which is longer than `stall`, {self.stall:g} s"
                )
        return found
