"""A file that one process alone may hold, where the system can see to that."""

from __future__ import annotations

import logging
from typing import IO


def lock(file: IO[bytes], what: str, other: str, log: logging.Logger) -> None:
    """Hold a file for this process alone, where the system can do that.

    Args:
        file: open; the system lets go of it when it is closed, or the process dies.
        what: it stands for, for the error.
        other: who else may hold it, likewise.
        log: told where it cannot be held.

    Raises:
        ValueError: if another holds it.
    """
    try:
        # Not on Windows, hence here; and not on every network file system, hence
        # `OSError` below. There a run is better than none.
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{what} is in use by {other}.") from None
    except (ImportError, OSError) as error:
        log.warning(
            "%s cannot be locked, see to it that one process uses it: %s", what, error
        )
