"""Which versions the processes of parties have, and what differs between two of them.

Versions that differ are no fault, since the protocol has a number of its own: but when
two machines do not compute the same, it is the first thing that one asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.json_types import Json

Versions = Mapping[str, str]
"""By the name of a program, its version."""

_MOST, _NAME = 16, re.compile(r"[a-z]{1,16}")
# It goes into logs: nothing that could break a line, or pass for something else.
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")


def versions_of(found: Mapping[str, Json], who: str) -> dict[str, str]:
    """The versions that a hello says.

    Args:
        found: what the frame holds, as JSON.
        who: the party that sent it.

    Raises:
        RemoteProtocolError: if they are none.
    """
    said = found.get("versions")
    if not isinstance(said, dict) or len(said) > _MOST:
        raise RemoteProtocolError(f"`{who}` does not say which versions it has.")
    versions: dict[str, str] = {}
    for name, version in said.items():
        if not isinstance(version, str) or not (
            _NAME.fullmatch(name) and _VERSION.fullmatch(version)
        ):
            raise RemoteProtocolError(f"`{who}` does not say which versions it has.")
        versions[name] = version
    return versions


def differing(own: Versions, theirs: Versions, here: str, there: str) -> str:
    """What differs between the versions of two parties, in words; nothing if all agree.

    Args:
        own: of the one.
        theirs: of the other.
        here: the name of the one.
        there: the name of the other.
    """
    parts: list[str] = []
    for name in sorted({*own, *theirs}):
        mine, its = own.get(name, "none"), theirs.get(name, "none")
        if mine != its:
            parts.append(f"{name} is {mine} at `{here}` and {its} at `{there}`")
    return ", ".join(parts)


def in_words(versions: Versions) -> str:
    """Versions as a log says them."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
