"""Whose fault it is when the protocol breaks: this party's, another's, or nobody's.

RuntimeError
├── LocalProtocolError    this party tried what is not its turn
├── RemoteProtocolError   another party did what it may not do
│   └── Astray            or the lead, which it came by way of; it cannot be told which
└── Refused               parties cannot work together, and both are told why

ValueError
└── NotYet                what this party was given cannot be used now, and may be later
"""

from __future__ import annotations


class LocalProtocolError(RuntimeError):
    """This party tried what is not its turn."""


class RemoteProtocolError(RuntimeError):
    """Another party did what it may not do, which costs it its connection."""


class Astray(RemoteProtocolError):
    """What came by way of the lead is not as it must be; it is dropped, and costs nothing.

    The connection is with the lead, and whoever sends by way of it could else end the
    connection of another.
    """


class Refused(RuntimeError):
    """Parties cannot work together; the message says in one line why.

    Args:
        message: the reason, as both sides print it.
        alone: whether this ends only the party that is told so, while the others go on.
        again: whether it may be otherwise if all start again, with nothing mended.

    Attributes:
        alone: as given.
        again: as given.

    Example:
        >>> from jsplit import party
        >>> error = party.Refused("the agreements differ: `seed` is 0 at `lab`.", alone=True)
        >>> print(error, error.alone)
        the agreements differ: `seed` is 0 at `lab`. True
    """

    def __init__(self, message: str, *, alone: bool = False, again: bool = False):
        super().__init__(message)
        # A late or wrong process must not take a run down that others have already
        # begun.
        self.alone = alone
        self.again = again


class NotYet(ValueError):
    """What a party was given cannot be used now, and may be soon, as it stands.

    A port is in use, a certificate is being renewed, a clock has not been set: whoever
    starts the party again may find it otherwise. So the command ends with status 75.

    Example:
        >>> from jsplit import party
        >>> isinstance(party.NotYet("`address` 0.0.0.0:8476 is in use."), ValueError)
        True
    """
