"""Who is there, and from which step all go on: the lead's part of the protocol, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jsplit.wire.session import RemoteProtocolError, Terms


class Refused(RuntimeError):
    """Parties cannot work together; the message says in one line why."""


Said = tuple[int, str | None]
"""Of some records: how many there are, and a digest of their ids, if they have any."""


@dataclass(frozen=True)
class Start:
    """An epoch: from which step all go on, the processes that do, and by client how many records all have agreed on."""

    epoch: int
    step: int
    instances: tuple[int, ...]
    records: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """What a party says of itself.

    Attributes:
        instance: its process.
        epoch: the one that it has begun; `known`: the newest of which it has heard.
        durable: the steps that it has on disk.
        records: by client, what it says of those that it has.
    """

    instance: int
    epoch: int
    durable: tuple[int, ...]
    records: Mapping[str, Said] = field(default_factory=dict)
    known: int = 0

    @staticmethod
    def of(found: Mapping[str, Any], who: str) -> Status:
        """Checked, as all that comes from another party."""
        numbers = [found.get("instance"), found.get("epoch"), found.get("known")]
        durable, records = found.get("durable"), found.get("records")
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or not isinstance(durable, list):
            raise RemoteProtocolError(f"`{who}` does not say which process it is.")
        if len(durable) > 64 or not all(type(n) is int and 0 <= n < 1 << 63 for n in durable):
            raise RemoteProtocolError(f"`{who}` does not say which checkpoints it has.")
        if not isinstance(records, dict) or not all(map(is_said, records.values())):
            raise RemoteProtocolError(f"`{who}` does not say which records it has.")
        said = {client: tuple(x) for client, x in records.items()}
        return Status(numbers[0], numbers[1], tuple(sorted(durable)), said, numbers[2])  # type: ignore[arg-type]


def is_said(x: Any) -> bool:
    return (isinstance(x, list) and len(x) == 2 and type(x[0]) is int and 0 <= x[0] < 1 << 63
            and (x[1] is None or type(x[1]) is str))  # fmt: skip


@dataclass
class Rendezvous:
    """The lead's part: who is there, which epoch it is, and what all have on disk."""

    terms: Terms
    there: dict[int, Status] = field(default_factory=dict)
    start: Start | None = None

    def arrive(self, party: int, status: Status) -> Start | None:
        """A party says what it has. Gives the epoch that begins with it, if all are there and one is begun.

        Raises:
            Refused: if the parties have no step in common, or not the same records.
        """
        if (known := self.there.get(party)) and known.instance == status.instance:
            if max(known.durable, default=-1) > max(status.durable, default=-1):
                return None  # said earlier, and late
        self.there[party] = status
        if len(self.there) < len(self.terms.parties):
            return None
        instances = tuple(self.there[p].instance for p in range(len(self.terms.parties)))
        if self.start is not None and self.start.instances == instances:
            return None
        records = same_records({self.terms.parties[p]: s for p, s in sorted(self.there.items())})
        if (step := self.common()) is None:
            has = "; ".join(f"`{self.terms.parties[p]}` {list(s.durable) or 'none'}" for p, s in sorted(self.there.items()))
            raise Refused(f"the parties have no checkpoint in common, so none can go on: {has}.")
        epoch = 1 + max([max(s.epoch, s.known) for s in self.there.values()] + [self.start.epoch if self.start else 0])
        self.start = Start(epoch, step, instances, records)
        return self.start

    def common(self) -> int | None:
        """The newest step that all have on disk."""
        if len(self.there) < len(self.terms.parties):
            return None
        return max(set.intersection(*(set(s.durable) for s in self.there.values())), default=None)


def same_records(said: Mapping[str, Status]) -> dict[str, int]:
    """By client, how many records all have that have any.

    Raises:
        Refused: if they are not the same, giving counts.
    """
    clients = dict.fromkeys(c for s in said.values() for c in s.records)
    return {client: same(client, {p: s.records[client] for p, s in said.items() if client in s.records}) for client in clients}


def same(client: str, having: Mapping[str, Said]) -> int:
    counts, of = [n for n, _ in having.values()], f" of `{client}`" if client else ""
    if len({*counts}) > 1:
        each = ", ".join(f"`{p}` {n}" for p, (n, _) in having.items())
        raise Refused(f"the parties do not have the same records{of}: {each}; at least {max(counts) - min(counts)} are "
                      "missing at one of them.")  # fmt: skip
    first, *others = having
    if odd := [p for p in others if having[p][1] != having[first][1]]:
        raise Refused(f"the parties do not have the same records{of}: all have {counts[0]}, but those of "
                      f"{', '.join(f'`{p}`' for p in odd)} are not those of `{first}`.")  # fmt: skip
    return counts[0]


def number(found: Mapping[str, Any], name: str) -> int:
    n = found.get(name)
    if type(n) is not int or not 0 <= n < 1 << 63:
        raise RemoteProtocolError(f"`{name}` must be a number from 0 on, got {n!r}.")
    return n
