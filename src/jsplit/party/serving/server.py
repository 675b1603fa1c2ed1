"""A party that serves: it stays, and computes its part of whatever is asked.

Threads that read connections hand over what has come; one thread computes, the calls of
several sessions that wait in one run.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial

from jsplit.core.checks import first_line
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.schema import arrays as shapes_of
from jsplit.party.serving.calls import Calls
from jsplit.party.serving.course import Course
from jsplit.party.serving.lanes import SessionLost
from jsplit.party.serving.lines import Dialler, Line
from jsplit.party.serving.opening import (
    Limits,
    answer_of,
    cast_of,
    check_fields,
    checked_opening,
)
from jsplit.party.serving.outward import Outward
from jsplit.party.serving.served import Brought, Holding
from jsplit.party.serving.table import Entry, Table
from jsplit.party.serving.together import Together
from jsplit.party.serving.waiting import Waiting, WaitingRoom
from jsplit.party.serving.words import IDS, Words, ids_in, said_of, stamp_of
from jsplit.wire.codec import CodecError, Frame, Head, about
from jsplit.wire.difference import difference
from jsplit.wire.layout import Shapes
from jsplit.wire.pipe import Closed
from jsplit.wire.transport import Open

_log = logging.getLogger("jsplit.party")


class Server:
    """One serving party.

    Args:
        brought: its part.
        holding: its records, if it has any.
        limits: what it takes.
        idle: seconds after which a session without calls is let go of.
        dialler: how it reaches other serving parties.

    Attributes:
        table: its sessions.
        opened: how many sessions there have been.
    """

    def __init__(
        self,
        brought: Brought,
        holding: Holding,
        limits: Limits,
        idle: float,
        dialler: Dialler,
    ):
        self.brought, self.holding, self.limits = brought, holding, limits
        self.agreed: Agreement = brought.agreed
        self.party, self.dialler = brought.party, dialler
        self.words = Words(self.agreed, self.party)
        self.table = Table(limits.sessions, idle)
        self.opened = 0
        self._said = said_of(self.agreed)
        self._events: queue.Queue[tuple[Line, Frame | None]] = queue.Queue(1024)
        self._outward = Outward(dialler, self.words, self._came)
        self._calls = Calls(
            self.words,
            self.table,
            self._outward,
            Together(limits.together, limits.sessions),
            stamp_of(brought.model),
            self._safely,
        )
        self._waiting = WaitingRoom(limits.together, limits.wait)
        self._all: set[Line] = set()

    @property
    def calls(self) -> int:
        """How many calls it has computed its part of."""
        return self._calls.done

    # Of the threads that read.

    def met(self, party: str, opened: Open) -> None:
        """Serve a connection that somebody has dialled, until it is over."""
        line = Line(opened(lambda head: self._judge(party, head)))
        self._all.add(line)
        line.read(self._came)
        self._all.discard(line)
        self._events.put((line, None))

    def _came(self, line: Line, frame: Frame) -> None:
        if line.ahead.enter(frame, lambda: line.over is not None):
            self._events.put((line, frame))

    def _judge(self, party: str, head: Head) -> None:
        entry = self.table.get(head.epoch) if head.kind == "activation" else None
        expected = None if entry is None else self._expected(entry, head)
        self.words.judge(party, head, expected)

    def _expected(self, entry: Entry, head: Head) -> Shapes:
        """The shapes of a value of a session."""
        part, course = entry.course.part, entry.course
        most = self.limits.length if part.sequence else course.batch
        if head.value >= len(part.wires) or not 0 < head.micro <= most:
            raise CodecError("a value came that is none of a call.")
        wire = part.wires[head.value]
        sender = self.agreed.parties[head.sender]
        if wire.receiver != part.role or entry.cast[wire.sender] != sender:
            raise CodecError(
                f"`{sender}` sent `{wire.what}`, which is not its to send."
            )
        payload, _ = part.like(head.value, *course.sizes(head.micro))
        return shapes_of(payload)

    # Of the thread that computes.

    def work(self, stop: threading.Event) -> None:
        """Compute what is asked until asked to stop."""
        waiting, calls = self._waiting, self._calls
        while not stop.is_set():
            try:
                line, frame = self._events.get(timeout=waiting.left(len(self.table)))
            except queue.Empty:
                if not waiting:
                    self.table.sweep()
                    calls.tidy()
                calls.compute(waiting.leave())
                continue
            # In the order in which all came: a session that ends was computed before.
            known = frame is not None and frame.head.kind in ("activation", IDS)
            if frame is None or not known or frame.head.epoch in waiting:
                calls.compute(waiting.leave())
            if frame is None:
                self.table.drop_of(line)
                continue
            self._safely(line, frame, partial(self._take, line, frame))
            if frame.head.epoch not in waiting:
                line.ahead.leave(frame)
                waiting.pass_by()
            if waiting.full(len(self.table)):
                calls.compute(waiting.leave())

    def close(self) -> None:
        """End all connections."""
        for line in (*self._all, *self._outward.lines.values()):
            line.end(f"`{self.party}` does not serve any more.", 1.0)

    def _safely(self, line: Line, frame: Frame, do: Callable[[], object]) -> None:
        """Do what a frame asks for; what fails is refused, and costs no other session."""
        number = frame.head.epoch
        try:
            do()
        except SessionLost as error:
            self._refuse(line, number, str(error), lost=True)
        except CodecError as error:
            # No word of it to the session, which is somebody else's.
            line.end(str(error))
        except ValueError as error:
            # Of jsplit, or of this party's segments: about shapes, and of no record.
            # Its kind says nothing to whoever asks.
            why = first_line(error).removeprefix("ValueError: ")
            self._refuse(line, number, why)
        except Closed:
            self.table.drop_of(line)
        except Exception as error:
            _log.exception("%s: a call for `%s` failed", self.party, line.peer)
            self._refuse(line, number, f"{type(error).__name__} at `{self.party}`")

    def _take(self, line: Line, frame: Frame) -> None:
        number = frame.head.epoch
        if frame.head.kind == "hello":
            self._open(line, frame)
        elif frame.head.kind == "bye":
            entry = self.table.get(number)
            if entry is not None and entry.line is line:
                self.table.drop(number, "it was ended")
        elif frame.head.kind == "refusal":
            self._hand_on(line, frame)
        else:
            self._value(line, frame)

    def _refuse(
        self, line: Line, number: int, why: str, *, lost=False, again=False
    ) -> None:
        """Tell whoever has sent something, and whoever asks, that it comes to nothing."""
        entry = self.table.get(number)
        # Whoever knows the number of another's session ends nothing by it.
        if entry is not None and not entry.takes(line):
            entry = None
        if entry is not None:
            self.table.drop(number, why)
        said = {"reason": why, "lost": lost, "again": again, "who": self.party}
        for one in {line, *([] if entry is None else [entry.line])}:
            try:
                one.put(self.words.text("refusal", one.peer, number, said))
            except Closed:
                self.table.drop_of(one)

    def _hand_on(self, line: Line, frame: Frame) -> None:
        """Another serving party refuses what this one has sent: tell whoever asks."""
        entry = self.table.get(frame.head.epoch)
        # Only whom this party sends something may refuse it.
        if entry is None or line is not self._outward.lines.get(line.peer):
            return
        self.table.drop(frame.head.epoch, "another party refused it")
        said = about(frame)
        entry.line.put(
            self.words.text("refusal", entry.line.peer, frame.head.epoch, said)
        )

    def _open(self, line: Line, frame: Frame) -> None:
        """Begin a session, or say why not."""
        said, number = about(frame), frame.head.epoch
        if frame.head.run != self.words.run or said.get("agreed") != self._said:
            there = said.get("agreed")
            raise ValueError(difference(self._said, there, self.party, line.peer))
        batch, length = checked_opening(self.party, line.peer, said, self.limits)
        if self.table.get(number) is not None:
            raise ValueError("a session of this number is there.")
        if not self.table.room():
            why = f"`{self.party}` has {self.limits.sessions} sessions, and no more"
            self._refuse(line, number, why, again=True)
            return
        asker = self.agreed.turns.role[line.peer]
        part = self.brought.part(asker, sequence=length > 0)
        check_fields(part, self.holding, length)
        # Before it has caches of its own.
        self._calls.tidy()
        course = Course(part, batch, length)
        course.begin({})
        cast = cast_of(self.agreed, line.peer)
        self.table.add(number, Entry(course, line, cast, self.table.clock()))
        self.opened += 1
        answer = answer_of(part, self.brought.model, self.holding)
        line.put(self.words.text("hello", line.peer, number, answer))

    def _value(self, line: Line, frame: Frame) -> None:
        """Take a value, or ids; what can be computed by it waits for others."""
        head, number = frame.head, frame.head.epoch
        entry = self.table.get(number)
        if entry is None:
            raise SessionLost(
                f"the session is over at `{self.party}`: {self.table.why(number)}"
            )
        course = entry.course
        asks = head.kind == IDS and line is not entry.line
        if asks or not entry.takes(line):
            raise CodecError(f"`{line.peer}` sent a value of another's session.")
        if head.step != course.call:
            raise ValueError(
                f"call {head.step} came at `{self.party}` as {course.call}."
            )
        self.table.touch(entry)
        if head.kind == IDS:
            entry.ids = ids_in(about(frame))
            count = len(entry.ids)
        else:
            count = int(head.micro)
            # Judged anew: its session may have changed since its head came.
            expected = self._expected(entry, head)
            if frame.head.shapes != expected or not course.arrive(
                head.value, frame.arrays
            ):
                raise ValueError(f"a value came twice at `{self.party}`.")
        # All of a call are of one size, whichever comes first.
        entry.count = entry.count or count
        if count != entry.count:
            raise ValueError("the values of a call are of different sizes.")
        if not course.under_way:
            if course.part.needed and entry.ids is None:
                return  # they are on their way
            fields = self.holding.rows(entry.ids or ())
            course.start(count, {f: fields[f] for f in course.part.needed})

        if course.due:
            self._waiting.enter(number, Waiting(line, frame, entry))
