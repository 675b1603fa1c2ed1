"""Whoever asks: connections with all that serve, and the sessions over them.

A session keeps what it was given, so that one that is lost, with a server or because it
was idle, is begun again and gets to where it was.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jsplit.party.connection.interrupts import Missing
from jsplit.party.contract.schema import arrays as shapes_of
from jsplit.party.serving.course import Course
from jsplit.party.serving.lines import Dialler, Line
from jsplit.party.serving.opening import cast_of
from jsplit.party.serving.part import Part
from jsplit.party.serving.served import Brought
from jsplit.party.serving.words import (
    STAMP_SHAPE,
    Model,
    Words,
    all_together,
    new_number,
    said_of,
    stamp_of,
)
from jsplit.wire.codec import CodecError, Frame, Head, about
from jsplit.wire.errors import Refused
from jsplit.wire.layout import Shapes
from jsplit.wire.pipe import Closed, Denied
from jsplit.wire.said import printable, says

FIRST, SLOWEST = 0.05, 2.0
"""Seconds between two attempts to begin again, at first and at most."""
_DIALLING = 10.0
_LATE = 64
"""Sessions that are over, of which it is known what may still come."""


class Lost(Exception):  # noqa: N818 - the session is begun again
    """A session is over at some party, and can be begun again."""


@dataclass
class Under:
    """A session as it is under way at all parties, until it is lost.

    Attributes:
        course: what this party computes of it.
        heard: what has come of it.
    """

    course: Course
    heard: queue.Queue[Frame | Exception] = field(default_factory=queue.Queue)


class Asking:
    """One party that asks.

    Args:
        brought: its part.
        dialler: how it reaches the others.
        patience: seconds that it waits for a party.

    Attributes:
        servers: the parties that serve.
        model: what all have together; known once all have said theirs.
        looking_up: of them, those that look records up by ids.
        over: whether all connections have been ended, and none is made any more.
    """

    def __init__(self, brought: Brought, dialler: Dialler, patience: float):
        self.brought, self.dialler, self.patience = brought, dialler, patience
        self.agreed, self.party = brought.agreed, brought.party
        self.role = self.agreed.turns.role[self.party]
        self.cast = cast_of(self.agreed, self.party)
        self.servers = [p for r, p in self.cast.items() if r != self.role]
        self.words = Words(self.agreed, self.party)
        self.models: dict[str, Model] = {self.party: brought.model}
        self.looking_up: list[str] = []
        self.over = False
        self._lock = threading.Lock()
        self._lines: dict[str, Line] = {}
        self._under: dict[int, Under] = {}
        self._gone: dict[int, Under] = {}

    @property
    def model(self) -> Model:
        """The model of all parties."""
        return all_together(self.models)

    def new(self, part: Part, batch: int, length: int) -> tuple[int, Under]:
        """A session that is not begun yet, with the number under which others know it.

        Args:
            part: this party's part.
            batch: how many sequences, or the most records of a call.
            length: the most positions; 0 for records.
        """
        number, under = new_number(), Under(Course(part, batch, length))
        self._under[number] = under
        return number, under

    def open(self, number: int, under: Under, until: float) -> None:
        """Begin a session at all parties.

        Args:
            number: of the session.
            under: the session.
            until: when it is waited no longer.

        Raises:
            Lost: if a party is not there.
            Refused: if one refuses it, or has another model than before.
        """
        part, batch, length = under.course.part, under.course.batch, under.course.length
        said = {"agreed": said_of(self.agreed), "batch": batch, "length": length}
        for party in self.servers:
            line = self._line_to(party)
            self._put(line, self.words.text("hello", party, number, said))
        answers: dict[str, Mapping] = {}
        while len(answers) < len(self.servers):
            frame = self.hear(under, until)
            if frame.head.kind == "hello":
                answers[self.agreed.parties[frame.head.sender]] = about(frame)
        self._compare(answers)
        cached = part.cached or any(a.get("cached") for a in answers.values())
        if length and not cached:
            raise Refused(
                "no segment of any party has a cache, so a session would forget what "
                "came before: give one by `jsplit.split(..., decoding=)` or "
                "jsplit.with_cache; without `length` it is of records."
            )
        for answer in answers.values():
            part.outputs |= dict(answer.get("outputs", {}))
        self.looking_up = [p for p, a in answers.items() if a.get("looks up")]

    def _compare(self, answers: Mapping[str, Mapping]) -> None:
        """Refuse models that are not of one step, or not those of before."""
        models = dict(self.models)
        for party, said in answers.items():
            model = _model_in(party, said)
            before = models.setdefault(party, model)
            if before != model:
                raise Refused(
                    f"`{party}` has another model than before: of step {model.step} and "
                    f"the hash {printable(model.hash[:12])}, it was {before.step} and "
                    f"{before.hash[:12]}."
                )
        steps = {p: m.step for p, m in models.items()}
        if len({*steps.values()}) > 1:
            each = ", ".join(f"`{p}` {step}" for p, step in sorted(steps.items()))
            raise Refused(f"the parties serve models of different steps: {each}.")
        # Of models that do not go together none is the one of before.
        self.models = models

    def hear(self, under: Under, until: float) -> Frame:
        """What comes next of a session.

        Raises:
            Lost: if it is over.
            Refused: if a party refuses it.
            Missing: if nothing comes.
        """
        try:
            found = under.heard.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
            raise Missing(
                f"`{self.party}` waited {self.patience:g} s for "
                f"{', '.join(f'`{p}`' for p in self.servers)}."
            ) from None
        if isinstance(found, Exception):
            raise found
        if found.head.kind == "refusal":
            said, who = about(found), self.agreed.parties[found.head.sender]
            text = says(who, said.get("reason"))
            if said.get("lost") is True:
                raise Lost(text)
            raise Refused(text, again=said.get("again") is True)
        return found

    def check_stamp(self, frame: Frame) -> None:
        """Refuse an answer of another model than its sender has said to have.

        Raises:
            Refused: naming the sender.
        """
        sender = self.agreed.parties[frame.head.sender]
        if not np.array_equal(frame.arrays[-1], stamp_of(self.models[sender])):
            raise Refused(f"an answer of `{sender}` is of another model than before.")

    def send(self, party: str, frame: Frame) -> None:
        """Send a frame of a session under way.

        Raises:
            Lost: if the connection is over.
        """
        line = self._lines.get(party)
        if line is None:
            raise Lost(f"there is no connection with `{party}`")
        self._put(line, frame)

    def drop(self, number: int) -> None:
        """Let go of a session, and let the others do so."""
        under = self._under.pop(number, None)
        if under is not None:
            under.course.let_go()
            self._gone[number] = under
            while len(self._gone) > _LATE:
                self._gone.pop(next(iter(self._gone)), None)
        for party, line in [*self._lines.items()]:
            try:
                line.put(self.words.text("bye", party, number, {}))
            except Closed:
                continue

    def close(self) -> None:
        """End all connections, and with them all sessions."""
        self.over = True
        for line in [*self._lines.values()]:
            line.end(f"`{self.party}` has left.", 1.0)

    def _put(self, line: Line, frame: Frame) -> None:
        try:
            line.put(frame)
        except Closed as error:
            raise Lost(str(error)) from None

    def _line_to(self, party: str) -> Line:
        with self._lock:
            line = self._lines.get(party)
            if line is not None and line.over is None:
                return line
            try:
                line = self.dialler.dial(
                    party, lambda head: self._judge(party, head), _DIALLING
                )
            except Denied as error:
                raise Refused(str(error)) from None
            except Closed as error:
                raise Lost(str(error)) from None
            self._lines[party] = line
        if self.over:
            # Ended meanwhile, by whoever did not know of this one yet.
            self.close()
        threading.Thread(
            target=self._read, args=(line,), name=f"jsplit-hear-{party}", daemon=True
        ).start()
        return line

    def _read(self, line: Line) -> None:
        line.read(self._take)
        # All that were over it are lost, wherever they are; what was refused here would be
        # refused again.
        why = line.over or "the connection is over"
        for under in [*self._under.values()]:
            under.heard.put(Refused(why) if line.refused else Lost(why))

    def _take(self, line: Line, frame: Frame) -> None:
        under = self._under.get(frame.head.epoch)
        if under is not None:
            under.heard.put(frame)

    def _judge(self, party: str, head: Head) -> None:
        # An answer may come late, when nobody waits any more: that is no offence, and
        # would cost all other sessions their connection.
        under, expected = self._under.get(head.epoch, self._gone.get(head.epoch)), None
        if head.kind == "activation" and under is not None:
            expected = self._expected(under.course, head)
        self.words.judge(party, head, expected)

    def _expected(self, course: Course, head: Head) -> Shapes:
        part, sender = course.part, self.agreed.parties[head.sender]
        if head.value >= len(part.wires) or head.micro != course.count:
            raise CodecError(f"`{sender}` sent a value that is none of the call.")
        wire = part.wires[head.value]
        if wire.receiver != part.role or self.cast[wire.sender] != sender:
            raise CodecError(
                f"`{sender}` sent `{wire.what}`, which is not its to send."
            )
        payload, _ = part.like(head.value, *course.sizes(head.micro))
        return (*shapes_of(payload), STAMP_SHAPE)


def _model_in(party: str, said: Mapping[str, object]) -> Model:
    """The model that a party says to have."""
    step, digest = said.get("step"), said.get("hash")
    sound = type(step) is int and 0 <= step < 2**63 and isinstance(digest, str)
    if not sound or not re.fullmatch("[0-9a-f]{64}", str(digest)):
        raise Refused(f"`{party}` does not say which model it has.")
    return Model(int(str(step)), str(digest))
