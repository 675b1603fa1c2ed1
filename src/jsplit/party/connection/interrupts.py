"""Why a party that waits stops waiting: others did not come, all go back, or it was asked to stop."""

from __future__ import annotations


class Missing(TimeoutError):
    """A party did not come, or not come back, while this one was willing to wait.

    Example:
        >>> from jsplit import party
        >>> raise party.Missing("`lab` waited 60 s for the other parties")
        Traceback (most recent call last):
        ...
        jsplit.party.connection.interrupts.Missing: `lab` waited 60 s for the other parties
    """


class RolledBack(Exception):  # noqa: N818 - it is no error
    """Another epoch has begun: all go on from the step that it says."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """This party was asked to stop while it waited."""
