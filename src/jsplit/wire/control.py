"""What control frames say, checked field by field as it comes from another party.

A `Status` is what a party says of itself; a `Start` is what the lead answers once all
are there. Both are states, never changes, so that it does not matter how often or in
which order they arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.json_types import Json
from jsplit.wire.rota import Away
from jsplit.wire.said import quoted
from jsplit.wire.terms import Terms

MOST_DURABLE = 64
"""Checkpoints that a party tells the lead, at most: its newest ones."""
_END = 1 << 63
"""What no number reaches: heads have eight bytes for a step, and NumPy's integers are
signed.
"""

Counted = tuple[int, str | None]
"""Of some records: how many there are, and a digest of their ids, if they have any."""


@dataclass(frozen=True)
class Start:
    """An epoch.

    Attributes:
        epoch: its number.
        step: from which all go on.
        instances: the process of each party, 0 of one that is passed over.
        records: by client how many all have agreed on.
        away: which clients were and are passed over, from which steps on.
    """

    epoch: int
    step: int
    instances: tuple[int, ...]
    records: Mapping[str, int] = field(default_factory=dict[str, int])
    away: Away = ()

    @staticmethod
    def of(found: Mapping[str, Json], terms: Terms) -> Start:
        """The epoch that a frame says has begun.

        Args:
            found: what the frame holds, as JSON.
            terms: of the run.

        Raises:
            RemoteProtocolError: if it says nothing sensible.
        """
        instances, records = found.get("instances"), found.get("records")
        if not _are_numbers(instances) or len(instances) != len(terms.parties):
            raise RemoteProtocolError("the lead does not say who is there.")
        if not _are_counts(records):
            raise RemoteProtocolError("the lead does not say which records all have.")
        epoch = number(found, "epoch")
        # A party says the number again, and no lead would take a larger one.
        if epoch >= _END >> 1:
            raise RemoteProtocolError(f"the lead says that epoch {epoch} has begun.")
        return Start(
            epoch,
            number(found, "step"),
            # A tuple, to be compared with the one that the lead has made of the same processes.
            tuple(instances),
            records,
            _read_away(found.get("away"), len(terms.clients)),
        )


def _read_away(found: Json, clients: int) -> Away:
    """Who was away from which step on, out of lists as JSON has them."""
    wrong = RemoteProtocolError("the lead does not say who is passed over.")
    if not isinstance(found, list):
        raise wrong
    away: list[tuple[int, tuple[int, ...]]] = []
    for entry in found:
        if not isinstance(entry, list) or len(entry) != 2:
            raise wrong
        # JSON knows no tuples, so what was sent as one has come as a list.
        step, gone = entry
        if not is_number(step) or not _are_numbers(gone, clients):
            raise wrong
        away.append((step, tuple(gone)))
    return tuple(away)


@dataclass(frozen=True)
class Status:
    """What a party says of itself.

    Attributes:
        instance: its process.
        epoch: the one that it has begun.
        durable: the steps that it has on disk, ascending.
        records: by client, count and digest of the records that it has.
        known: the newest epoch of which it has heard.
        ready: whether it can begin: its programs are compiled. Until then it can be
            told that it does not fit, and nobody waits amid an epoch.
    """

    instance: int
    epoch: int
    durable: tuple[int, ...]
    records: Mapping[str, Counted] = field(default_factory=dict[str, Counted])
    known: int = 0
    ready: bool = True

    @property
    def progress(self) -> tuple[int, int, bool]:
        """What only grows within a process: so a status that comes late is known."""
        return self.epoch, max(self.durable, default=-1), self.ready

    @staticmethod
    def of(found: Mapping[str, Json], who: str) -> Status:
        """The status that a frame holds.

        Args:
            found: what the frame holds, as JSON.
            who: the party that sent it.

        Raises:
            RemoteProtocolError: if it says nothing sensible.
        """
        names = ("instance", "epoch", "known")
        numbers = [found.get(name) for name in names]
        durable, records = found.get("durable"), found.get("records")
        # One is added to an epoch before it is sent, so it must stay clear of the end.
        if not _are_numbers(numbers, _END >> 1):
            raise RemoteProtocolError(f"`{who}` does not say which process it is.")
        if not _are_numbers(durable) or len(durable) > MOST_DURABLE:
            raise RemoteProtocolError(f"`{who}` does not say which checkpoints it has.")
        if not isinstance(records, dict):
            raise RemoteProtocolError(f"`{who}` does not say which records it has.")
        counted = {name: _read_counted(entry, who) for name, entry in records.items()}
        ready = found.get("ready")
        if not isinstance(ready, bool):
            raise RemoteProtocolError(f"`{who}` does not say whether it is ready.")
        instance, epoch, known = numbers
        if epoch > known:
            raise RemoteProtocolError(
                f"`{who}` says it is in epoch {epoch}, and has heard of {known} at most."
            )
        return Status(instance, epoch, tuple(sorted(durable)), counted, known, ready)


def _read_counted(found: Json, who: str) -> Counted:
    wrong = RemoteProtocolError(f"`{who}` does not say which records it has.")
    if not isinstance(found, list) or len(found) != 2:
        raise wrong
    count, digest = found
    if not is_number(count) or not (digest is None or isinstance(digest, str)):
        raise wrong
    # The digest is compared and printed, never evaluated: any text will do.
    return count, digest


def is_number(found: Json, end: int = _END) -> TypeGuard[int]:
    """Whether this is an integer from 0 up to `end`."""
    # `type` and not `isinstance`: in JSON `true` would count as the number 1.
    return type(found) is int and 0 <= found < end


def _are_numbers(found: Json, end: int = _END) -> TypeGuard[list[int]]:
    """Whether this is a list of integers from 0 up to `end`."""
    return isinstance(found, list) and all(is_number(n, end) for n in found)


def _are_counts(found: Json) -> TypeGuard[dict[str, int]]:
    """Whether this gives a number by each name."""
    return isinstance(found, dict) and all(is_number(n) for n in found.values())


def number(found: Mapping[str, Json], name: str) -> int:
    """The number of this name in what a frame holds.

    Raises:
        RemoteProtocolError: if there is none.
    """
    n = found.get(name)
    if type(n) is not int or not 0 <= n < _END:
        raise RemoteProtocolError(
            f"`{name}` must be a number from 0 on, got {quoted(n)}."
        )
    return n


def status_words(own: Status, known: int, *, to_lead: bool) -> dict[str, object]:
    """What a party says of itself to another; `Status.of` is the inverse.

    Args:
        own: its status.
        known: the newest epoch of which it has heard.
        to_lead: whether the other opens epochs.
    """
    durable: Sequence[int] = own.durable[-MOST_DURABLE:]
    return {
        "instance": own.instance,
        "epoch": own.epoch,
        "known": known,
        "ready": own.ready,
        # What a party has on disk, and of how many records, is nobody's business but
        # the lead's.
        "durable": list(durable) if to_lead else [],
        "records": own.records if to_lead else {},
    }
