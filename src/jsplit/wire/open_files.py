"""How many files a process may have open, and what says that it has no more of them.

Connections are files too: whoever dials a party often enough takes those that its
checkpoints need.
"""

from __future__ import annotations

import errno

_WANTED = 8192
"""Open files that a party asks its system for: four times the connections that it takes
from outside at most. Not more, as systems refuse more (macOS from 10240 on), and what
still calls `select` knows few.
"""
_UNKNOWN = 512
"""Open files that are counted on where the system does not say, as on Windows."""


def raise_limit() -> int:
    """Raise the number of files that this process may have open, if its system lets it.

    Most systems give a process 1024 (macOS 256) unless it asks for more, and need not be
    asked by an administrator: this is what they call the soft limit.

    Returns:
        How many it may have open now.

    Example:
        >>> from jsplit.wire.open_files import limit, raise_limit
        >>> raise_limit() == limit()
        True
    """
    try:
        import resource
    except ImportError:
        return _UNKNOWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = _WANTED if hard == endless else min(hard, _WANTED)
    if soft != endless and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            # Where it may not, as in some containers, a run with few is better than none.
            pass
    return limit()


def limit() -> int:
    """How many files this process may have open.

    Example:
        >>> from jsplit.wire.open_files import limit
        >>> limit() > 0
        True
    """
    try:
        import resource
    except ImportError:
        return _UNKNOWN
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Of a system without a limit, as many as a party would ask for.
    return _WANTED if soft == resource.RLIM_INFINITY else soft


def lacks_files(error: BaseException) -> bool:
    """Whether an error says that no more files can be open, here or on the machine.

    Args:
        error: what was raised, also out of such an error: who reads a checkpoint says of
            any error that the file is not whole.

    Example:
        >>> import errno
        >>> from jsplit.wire.open_files import lacks_files
        >>> lacks_files(OSError(errno.EMFILE, "")), lacks_files(OSError(errno.ENOSPC, ""))
        (True, False)
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in (errno.EMFILE, errno.ENFILE):
            return True
        found = found.__cause__
    return False
