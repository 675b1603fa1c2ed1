"""Ctrl-C asks a loop to end after its step; a second one ends it at once, as usual.

So the state that hours of training have led to is in hand, and not lost with a traceback.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger("jsplit")


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Let the first SIGINT ask to stop, and the second raise `KeyboardInterrupt`.

    Yields:
        An event that is set when one has come. Outside the main thread, where Python
        handles no signals, and where the process ignores them, nobody sets it.
    """
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(before) or before is signal.SIG_IGN:
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        _log.warning("ends after this step; once more to end at once")

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
