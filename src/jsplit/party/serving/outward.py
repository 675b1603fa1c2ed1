"""Connections that a serving party dials: those with the parties it sends values on to."""

from __future__ import annotations

import threading
from collections.abc import Callable

from jsplit.party.serving.lanes import SessionLost
from jsplit.party.serving.lines import Dialler, Line
from jsplit.party.serving.words import Words
from jsplit.wire.codec import Frame
from jsplit.wire.pipe import Closed

_DIALLING = 5.0
"""Seconds in which another serving party must be reached; others wait meanwhile."""


class Outward:
    """The other serving parties, dialled when something is sent to them.

    Args:
        dialler: how they are reached.
        words: of this party.
        came: is given what comes of them.

    Attributes:
        lines: by party, the connection last made.
    """

    def __init__(
        self, dialler: Dialler, words: Words, came: Callable[[Line, Frame], object]
    ):
        self.dialler, self.words, self._came = dialler, words, came
        self.lines: dict[str, Line] = {}

    def send(self, party: str, frame: Frame) -> None:
        """Send a party a frame.

        Raises:
            SessionLost: if it is not reached, or does not read.
        """
        line = self.to(party)
        try:
            line.put(frame)
        except Closed as error:
            # Not for who asks to be let go of, whose connection is another and is there.
            raise SessionLost(
                f"`{self.words.party}` cannot send to `{party}`: {error}"
            ) from None

    def to(self, party: str) -> Line:
        """The connection with a party, dialled if there is none.

        Raises:
            SessionLost: if it is not reached.
        """
        line = self.lines.get(party)
        if line is not None and line.over is None:
            return line
        try:
            line = self.dialler.dial(
                party, lambda head: self.words.judge(party, head, ()), _DIALLING
            )
        except Closed as error:
            raise SessionLost(
                f"`{self.words.party}` does not reach `{party}`: {error}"
            ) from None
        self.lines[party] = line
        threading.Thread(
            target=line.read,
            args=(self._came,),
            name=f"jsplit-hear-{party}",
            daemon=True,
        ).start()
        return line
