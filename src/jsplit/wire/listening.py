"""Why an address cannot be listened at: because of what it is, or only now.

gRPC says the same of all. A port may be in use by a process that is about to end, and a
machine that starts may not have its address yet.
"""

from __future__ import annotations

import errno
import socket
from contextlib import closing

from jsplit.wire.errors import NotYet

_PASSING = {errno.EADDRINUSE, errno.EADDRNOTAVAIL}


def unusable(address: str, why: str) -> ValueError:
    """Give the error that says that an address cannot be listened at.

    Args:
        address: `host:port`.
        why: the end of the sentence.

    Returns:
        A `NotYet` if another time it may work.
    """
    text = f"`address` {address} cannot be listened at{why}"
    return NotYet(text) if _may_pass(address) else ValueError(text)


def _may_pass(address: str) -> bool:
    """Whether what is wrong with an address is only so now: tried as gRPC has tried it."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"),
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        family, kind, protocol, _, at = found[0]
        with closing(socket.socket(family, kind, protocol)) as tried:
            tried.bind(at)
    # No name server answers yet.
    except socket.gaierror as error:
        return error.errno == socket.EAI_AGAIN
    except OSError as error:
        return error.errno in _PASSING
    except (ValueError, OverflowError):
        return False
    # It has become free since.
    return True
