"""Why a party that waits stops waiting: others are missing, all go back, or it must stop."""

from __future__ import annotations


class Missing(TimeoutError):
    """A party did not come, or not come back, or stood still, for longer than agreed.

    Args:
        message: who waited for whom, and what is known to be wrong.
        denied: whether one of them does not let this party in, so that waiting is in
            vain until that has changed.

    Attributes:
        denied: as given.

    Example:
        >>> from jsplit import party
        >>> raise party.Missing("`lab` waited 60 s for the other parties")
        Traceback (most recent call last):
        ...
        jsplit.party.connection.interrupts.Missing: `lab` waited 60 s for the other parties
    """

    def __init__(self, message: str, *, denied: bool = False):
        super().__init__(message)
        self.denied = denied


# The next two are caught by the run itself and never seen by a user, so
# they are no errors.
class RolledBack(Exception):  # noqa: N818 - it is no error
    """Another epoch has begun: all go on from the step that it says."""


# The same shape as `threading.Event.is_set`, for a party that nobody can stop.
def never() -> bool:
    """Whether to stop: no."""
    return False


class Stopped(Exception):  # noqa: N818 - it is no error
    """This party was asked to stop while it waited."""
