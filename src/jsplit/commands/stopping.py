"""How a party's process is asked to stop, and how it speaks when nobody listens any more.

A service manager sends SIGTERM, a terminal that is closed SIGHUP. Neither that terminal
nor a full disk under the output may end a run.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jsplit.core.files import private_file

_log = logging.getLogger("jsplit")


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Let SIGTERM and SIGHUP ask to stop, instead of ending the process.

    Yields:
        An event that is set when one has come.
    """
    stop = threading.Event()
    with _signalled(lambda *_: stop.set()):
        yield stop


@contextmanager
def _signalled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Have a function called by SIGTERM and SIGHUP, for a while."""
    before = {}
    # There is no SIGHUP on Windows.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Who starts a command by `nohup` has said that it outlives its terminal.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Asked(BaseException):
    """The process was asked to stop while it had nothing to end, as a step."""


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Within `asked_to_stop`: end by `Asked` when SIGTERM or SIGHUP has come.

    For what comes before a run, as imports and the user's function, which may take long
    and look at no event.

    Raises:
        Asked: amid what is done.
    """

    def end(number: int, frame: object) -> None:
        raise Asked

    with _signalled(end):
        yield


def leave_no_signal() -> None:
    """Let SIGTERM and SIGHUP come too late, from now on until the process ends.

    What it was asked to do is done, and its exit status says so. A second signal while
    Python takes itself apart would put a status of its own into that one's place.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)


def say(text: str) -> None:
    """Print a line, if anybody can be told.

    Args:
        text: without the end of the line.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # A terminal that was closed, a pipe whose reader has ended, a full disk: none
        # is a reason to throw away what was computed.
        _log.debug("nothing can be printed: %s", error)


def hush() -> None:
    """Let what could not be printed be, at the end of a process.

    Python would try once more, and end with a status of its own (120) if that fails.
    """
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


class Lines:
    """A file of lines, of which a full disk costs some, and no more.

    Args:
        file: lines are added to it; `None`: they go nowhere.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, file: Path | None):
        self.name = file
        # Line by line, so that the file is whole whenever somebody looks or the process
        # dies. Losses say something of records, so it is its owner's alone.
        self.file = None
        if file is not None:
            raw = private_file(file, "ab")
            self.file = io.TextIOWrapper(raw, encoding="utf-8", line_buffering=True)
            # What a full disk or a killed process has left of a line is a line of its own.
            if raw.tell() and not file.read_bytes()[-1:] == b"\n":
                self.file.write("\n")
        self.failed = False

    def add(self, line: str) -> None:
        """Write a line; what cannot be written is said once and left out."""
        if self.file is None:
            return
        try:
            # What a full disk has held up is still in the buffer, and comes before it.
            self.file.write(line + "\n")
            self.failed = False
        except OSError as error:
            if not self.failed:
                _log.error("lines of %s are lost: %s", self.name, error)
            self.failed = True

    def close(self) -> None:
        """Close the file."""
        try:
            if self.file is not None:
                self.file.close()
        except OSError as error:
            _log.error("lines of %s are lost: %s", self.name, error)
