"""Waits for open files: that a process has no more of them passes, and damages nothing.

A full disk is another matter: there a checkpoint that cannot be saved counts as one
that has failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from jsplit.wire.open_files import lacks_files

_FIRST, _SLOWEST = 0.05, 1.0
"""Seconds between two attempts, at first and at most."""
_Found = TypeVar("_Found")
_log = logging.getLogger("jsplit.party")


def with_files(work: Callable[[], _Found], what: str, wait: float) -> _Found:
    """Do what needs files, again and again as long as no more can be open.

    Args:
        work: may be begun anew at any time.
        what: it does, in words, for the log.
        wait: seconds after which it is no more tried again.

    Returns:
        What `work` gives.

    Raises:
        OSError: whatever `work` raises in the end.
        ValueError: the same.

    Example:
        >>> from jsplit.party.scarce_files import with_files
        >>> with_files(lambda: 1, "counting", 5.0)
        1
    """
    end, pause = time.monotonic() + wait, _FIRST
    while True:
        try:
            return work()
        except Exception as error:
            if not lacks_files(error) or time.monotonic() >= end:
                raise
            # Once, however often it is tried.
            if pause == _FIRST:
                _log.error(
                    "no more files can be open, so %s is tried again for up to %g s: %s",
                    what,
                    wait,
                    error,
                )
        time.sleep(pause)
        pause = min(2 * pause, _SLOWEST)
