"""What libraries write on standard error by themselves has a bound in lines.

gRPC writes a line for every TLS handshake that fails, and tells Python nothing; so whoever
knocks at a port fills the journal. What such code writes goes through a small process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_OF_LIBRARIES = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+\.\w+:\d+\] .*)")
"""A line as absl writes it, in gRPC and in XLA. Not `F`, of what ends the process."""
_KNOWN = 16
"""Kinds of lines that are counted apart; a table without a bound would grow with what
outsiders think of.
"""
_EVERY = 10.0
"""Seconds between two lines that say how many more there were."""


class Bound:
    """Passes lines on, and of a kind that it knows already only how many there were.

    Args:
        write: is given each line that is told.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.write, self.clock = write, clock
        self.seen: Counter[str] = Counter()
        self.untold, self.since = 0, 0.0

    def add(self, line: str) -> None:
        """Take a line, with its end."""
        of_library = _OF_LIBRARIES.match(line)
        if of_library is None:
            self.write(line)
            return
        # Addresses and ports differ from one to the next, and say nothing new.
        kind = re.sub(r"\d+", "0", of_library[1])
        kind = kind if kind in self.seen or len(self.seen) < _KNOWN else "others"
        self.seen[kind] += 1
        if self.seen[kind] == 1:
            self.write(line)
            return
        if not self.untold:
            self.since = self.clock()
        self.untold += 1
        # By the next that comes, as at a listener's door: no thread waits for it.
        if self.clock() - self.since >= _EVERY:
            self.tell()

    def tell(self) -> None:
        """Say how many lines were left out since it was said last."""
        if self.untold:
            took = self.clock() - self.since
            self.write(f"libraries: {self.untold} more such lines in {took:.0f} s\n")
        self.untold = 0


@contextmanager
def bounded() -> Iterator[None]:
    """For a while, have lines that libraries write on file 2 go through a `Bound`.

    What Python writes on `sys.stderr` goes where it went, and is not delayed.
    """
    if os.name != "posix":  # there the numbers of files are no process's own
        yield
        return
    kept, python = os.dup(2), sys.stderr
    # A process and not a thread: what a library writes before it aborts must still
    # come out. In a session of its own, so that Ctrl-C does not end it first.
    reader = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipe = reader.stdin
    assert pipe is not None
    os.dup2(pipe.fileno(), 2)
    pipe.close()
    if _is_file_2(python):
        # Its file stays open after the end: handlers of `logging` have kept it.
        sys.stderr = os.fdopen(
            os.dup(kept), "w", buffering=1, errors="backslashreplace"
        )
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr = python
        try:
            # A process that the user's function has started may hold the pipe still.
            reader.wait(1.0)
        except subprocess.TimeoutExpired:
            pass


def _is_file_2(stream: TextIO) -> bool:
    # A notebook or a test may have put something there that is no file.
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False


def _read() -> None:
    """What the small process does, until nobody can write to it any more."""
    # A service manager sends them to all processes, and the last words come afterwards.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)

    def write(line: str) -> None:
        try:
            os.write(2, line.encode(errors="backslashreplace"))
        except OSError:
            # The terminal is gone or the disk full; the party must not wait for a pipe.
            pass

    bound = Bound(write)
    for raw in iter(lambda: sys.stdin.buffer.readline(4096), b""):
        bound.add(raw.decode(errors="backslashreplace"))
    bound.tell()


if __name__ == "__main__":
    _read()
