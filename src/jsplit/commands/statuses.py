"""What the exit status of a party's process says to whoever has started it.

Whether starting it again can help: a supervisor reads no messages. By the custom of
`sysexits.h` 75 is a failure that may pass by itself.
"""

from __future__ import annotations

from jsplit import party as parties

DONE = 0
NEVER = 2
"""The command ends as it would again: something must be mended first. It is the status
of `argparse` as well."""
STOPPED = 3
"""Asked to stop before the end; started again, it goes on."""
AGAIN = 75
"""Others were missing, a disk was full, or what it needs was not there yet: started
again, it goes on."""
INTERRUPTED = 130
"""After Ctrl-C, by the custom of shells: 128 and the number of the signal."""

MENDABLE = (ValueError, parties.Refused, parties.Missing, OSError)
"""The errors of which the message, in one line, says what to do. All others are faults
of jsplit or of the user's own functions, and end with a traceback and status 1."""

# Errors of the system that name what the user has written: a file that is not there
# will not be there the next time. All others, as a full disk, may pass.
_OF_THE_USER = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


def status_of(error: BaseException) -> int:
    """Give the exit status after an error that a user can mend.

    Args:
        error: one of `MENDABLE`.

    Returns:
        `AGAIN` if starting the process again may help, `NEVER` otherwise.

    Example:
        >>> from jsplit import party
        >>> from jsplit.commands.statuses import status_of
        >>> status_of(party.Missing("`lab` waited 60 s")), status_of(ValueError("`party`"))
        (75, 2)
        >>> status_of(OSError(28, "No space left on device"))
        75
    """
    if isinstance(error, parties.NotYet):
        return AGAIN
    if isinstance(error, parties.Refused) and error.again:
        return AGAIN
    # Who is turned away is so until the other side has changed something.
    if isinstance(error, parties.Missing) and error.denied:
        return NEVER
    # `Missing` is a `TimeoutError` and so an `OSError`, as what a socket raises is.
    if isinstance(error, OSError) and not isinstance(
        error, (ValueError, *_OF_THE_USER)
    ):
        return AGAIN
    return NEVER
