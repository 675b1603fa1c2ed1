"""Computes the calls that wait at a serving party, and sends what they give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, Protocol

import numpy as np

from jsplit.core.base import PyTree
from jsplit.party.serving.lanes import SessionLost
from jsplit.party.serving.lines import Line
from jsplit.party.serving.outward import Outward
from jsplit.party.serving.table import Entry, Table
from jsplit.party.serving.together import Together
from jsplit.party.serving.waiting import Waiting
from jsplit.party.serving.words import Words
from jsplit.wire.codec import Frame

_log = logging.getLogger("jsplit.party")


class Safely(Protocol):
    """Does what a frame asks for, and refuses it where that fails."""

    def __call__(
        self, line: Line, frame: Frame, do: Callable[[], object], /
    ) -> None: ...


class Calls:
    """What is computed of calls.

    Args:
        words: of the party that serves.
        table: its sessions.
        outward: the other parties that serve.
        together: computes several sessions at once.
        stamp: of its model, which an answer carries.
        safely: so that what fails costs no other session.

    Attributes:
        done: how many calls are computed.
    """

    def __init__(
        self,
        words: Words,
        table: Table,
        outward: Outward,
        together: Together,
        stamp: np.ndarray,
        safely: Safely,
    ):
        self.words, self.table, self.outward = words, table, outward
        self.together, self.stamp, self.done = together, stamp, 0
        self._safely = safely

    def tidy(self) -> None:
        """Let go of what is kept for sessions that are over."""
        self.together.tidy()

    def compute(self, calls: Sequence[Waiting]) -> None:
        """Compute calls, those of one size in one run."""
        for group in self.together.groups([c.entry.course for c in calls]):
            self._run([calls[i] for i in group])
        for call in calls:
            call.line.ahead.leave(call.frame)

    def _run(self, calls: list[Waiting]) -> None:
        # Before caches are copied, into lanes or out of them.
        self.tidy()
        # What failed before may have cost others their connection.
        calls = [c for c in calls if self.table.get(c.frame.head.epoch) is c.entry]
        found = None
        if len(calls) > 1:
            try:
                found = self.together.run([c.entry.course for c in calls])
            except Exception as error:
                _log.exception("%s: a run of sessions failed", self.words.party)
                lost = SessionLost(f"{type(error).__name__} at `{self.words.party}`")
                for call in calls:
                    self._safely(call.line, call.frame, partial(_raise, lost))
                return
        for i, call in enumerate(calls):
            results = None if found is None else found[i]
            go_on = partial(self._go_on, call.entry, call.frame.head.epoch, results)
            self._safely(call.line, call.frame, go_on)

    def _go_on(
        self, entry: Entry, number: int, results: Sequence[PyTree] | None
    ) -> None:
        """Compute what can be computed of a call.

        Args:
            entry: its session.
            number: of the session.
            results: of its next program, if that has been run with those of others.
        """
        course = entry.course

        def post(place: int, arrays: Sequence[np.ndarray]) -> None:
            self.post(entry, number, place, arrays)

        over = results is not None and course.computed(results, post)
        if over or course.advance(post):
            entry.ids, entry.count = None, 0
            self.done += 1
        # To compute may take longer than a session may be idle.
        self.table.touch(entry)

    def post(
        self, entry: Entry, number: int, place: int, arrays: Sequence[np.ndarray]
    ) -> None:
        """Send what a call gave, to another party that serves or to whoever asks.

        Args:
            entry: its session.
            number: of the session.
            place: of the wire.
            arrays: what crosses.
        """
        course = entry.course
        wire = course.part.wires[place]
        to = entry.cast[wire.receiver]
        asks = wire.receiver == course.part.asker
        arrays = [*arrays, self.stamp] if asks else arrays
        frame = self.words.value(to, number, place, course.call, course.count, arrays)
        if asks:
            entry.line.put(frame)
        else:
            self.outward.send(to, frame)


def _raise(error: Exception) -> NoReturn:
    raise error
