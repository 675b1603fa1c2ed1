"""Whether a description of turns is one: what does not fit is named.

An agreement is a file that others have written, so nothing in it is
taken for what it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import SupportsIndex, cast

from jsplit.party.contract.file_types import TurnsEntry
from jsplit.topology.handoffs import HANDOFFS

_MISSING = ("wait", "skip")
_ONE = ""
"""The name of the client where there are no turns."""
_ENTRIES = {"clients", "order", "handoff", "missing", "largest"}


def without_turns(steps: int) -> TurnsEntry:
    """What describes a run of one client, which has all roles in all steps."""
    return {
        "clients": {_ONE: {}},
        "order": [[_ONE, steps]],
        "handoff": "none",
        "missing": "wait",
        "largest": 1,
    }


def checked_turns(said: object, roles: Sequence[str]) -> TurnsEntry:
    """The description, after all of it was looked at.

    Args:
        said: as `jsplit.party.turns` gives it, or as it came out of a
            file.
        roles: the parties of the topology.

    Raises:
        ValueError: naming what does not fit.
    """
    if not isinstance(said, Mapping) or said.keys() != _ENTRIES:
        raise ValueError("`turns` must be what jsplit.party.turns gives.")
    _check_one_of("handoff", HANDOFFS, said["handoff"])
    _check_one_of("missing", _MISSING, said["missing"])
    _check_clients(said["clients"], roles)
    largest = said["largest"]
    # JSON knows `true`, which Python counts as the integer 1.
    if isinstance(largest, bool) or not isinstance(largest, int) or largest < 1:
        raise ValueError(f"`largest` must be a number of bytes, got {largest!r}.")
    _check_order(said["order"], said["clients"])
    return cast(TurnsEntry, said)


def steps_around(order: Iterable[Sequence]) -> int:
    """How many steps it takes to go once round an order of turns that was looked at."""
    return sum(int(steps) for _, steps in order)


def _check_one_of(name: str, allowed: tuple[str, ...], got: object) -> None:
    # A tuple and not a set: what came may be a list, which has no hash.
    if got not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {got!r}.")


def _check_clients(clients: object, roles: Sequence[str]) -> None:
    if (
        not isinstance(clients, Mapping)
        or not clients
        or not all(isinstance(c, Mapping) and c for c in clients.values())
    ):
        raise ValueError(
            "`clients` must give for each client which party plays which role, "
            f"got {clients!r}."
        )
    first = next(iter(clients.values())).keys()
    for name, parties in clients.items():
        same_roles = parties.keys() == first and parties.keys() <= {*roles}
        if not same_roles or not all(isinstance(p, str) for p in parties.values()):
            raise ValueError(
                f"`clients` must give each the same roles, of {', '.join(roles)}; "
                f"`{name}` has {dict(parties)!r}."
            )


def _check_order(order: object, clients: Mapping[str, object]) -> None:
    if not isinstance(order, Sequence) or not order:
        raise ValueError(
            f"`order` must say who trains for how many steps, got {order!r}."
        )
    for turn in order:
        if not _is_turn(turn, clients):
            raise ValueError(
                "`order` must hold clients and how many steps each takes, "
                f"got {turn!r}."
            )


def _is_turn(turn: object, clients: Mapping[str, object]) -> bool:
    if not isinstance(turn, Sequence) or len(turn) != 2 or turn[0] not in clients:
        return False
    steps = turn[1]
    # Any integer will do, as one of NumPy; but not `True`, which is one to
    # Python.
    if isinstance(steps, bool) or not isinstance(steps, SupportsIndex):
        return False
    return index(steps) >= 1
