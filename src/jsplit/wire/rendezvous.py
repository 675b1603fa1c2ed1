"""Who is there, and from which step all go on: the lead's part of the protocol, without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsplit.wire.session import Away, RemoteProtocolError, Terms


class Refused(RuntimeError):
    """Parties cannot work together; the message says in one line why.

    Attributes:
        alone: whether this concerns only the party that is told so, and the others go on.
    """

    def __init__(self, message: str, *, alone: bool = False):
        super().__init__(message)
        self.alone = alone


MOST_DURABLE = 64
"""Checkpoints that a party tells the lead, at most: its newest ones."""
_MOST_EPOCHS = 1 << 32
"""By how much the epoch that a party has heard of may be ahead of those that all others have."""

_Said = tuple[int, str | None]
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
    records: Mapping[str, int] = field(default_factory=dict)
    away: Away = ()

    @staticmethod
    def of(found: Mapping[str, Any], terms: Terms) -> Start:
        """Checked, as all that comes from another party."""
        instances, records, away = (
            found.get("instances"),
            found.get("records"),
            found.get("away"),
        )
        if (
            not isinstance(instances, list)
            or len(instances) != len(terms.parties)
            or not _are_numbers(instances)
        ):
            raise RemoteProtocolError("the lead does not say who is there.")
        if not isinstance(records, dict) or not _are_numbers([*records.values()]):
            raise RemoteProtocolError("the lead does not say which records all have.")
        for x in away if isinstance(away, list) else [away]:
            if (
                not isinstance(x, list)
                or len(x) != 2
                or not _are_numbers([x[0]])
                or not _are_numbers(x[1], len(terms.clients))
            ):
                raise RemoteProtocolError("the lead does not say who is passed over.")
        gone = tuple((step, tuple(clients)) for step, clients in away or ())
        return Start(
            number(found, "epoch"),
            number(found, "step"),
            tuple(instances),
            records,
            gone,
        )


def _are_numbers(found: Any, end: int = 1 << 63) -> bool:
    return isinstance(found, list) and all(
        type(n) is int and 0 <= n < end for n in found
    )


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
    records: Mapping[str, _Said] = field(default_factory=dict)
    known: int = 0

    @staticmethod
    def of(found: Mapping[str, Any], who: str) -> Status:
        """Checked, as all that comes from another party."""
        numbers = [found.get("instance"), found.get("epoch"), found.get("known")]
        durable, records = found.get("durable"), found.get("records")
        if not _are_numbers(numbers, 1 << 62) or not isinstance(durable, list):
            raise RemoteProtocolError(f"`{who}` does not say which process it is.")
        if len(durable) > MOST_DURABLE or not _are_numbers(durable):
            raise RemoteProtocolError(f"`{who}` does not say which checkpoints it has.")
        if not isinstance(records, dict) or not all(map(_is_said, records.values())):
            raise RemoteProtocolError(f"`{who}` does not say which records it has.")
        said = {client: tuple(x) for client, x in records.items()}
        return Status(numbers[0], numbers[1], tuple(sorted(durable)), said, numbers[2])  # type: ignore[arg-type]


def _is_said(x: Any) -> bool:
    return (
        isinstance(x, list)
        and len(x) == 2
        and type(x[0]) is int
        and 0 <= x[0] < 1 << 63
        and (x[1] is None or type(x[1]) is str)
    )


@dataclass
class Rendezvous:
    """The lead's part: who is there, which epoch it is, and what all have on disk.

    Args:
        terms: of the run.
        away: which clients were passed over before this process began.
    """

    terms: Terms
    away: Away = ()
    there: dict[int, Status] = field(default_factory=dict)
    start: Start | None = None
    missing: set[int] = field(default_factory=set)
    returned: set[int] = field(default_factory=set)

    def __post_init__(self):
        if self.away:
            self.missing = {p for c in self.away[-1][1] for p in self.terms.clients[c]}

    def arrive(self, party: int, status: Status) -> Start | None:
        """A party says what it has. Gives the epoch that begins with it, if all are there and one is begun.

        Raises:
            Refused: if the parties have no step in common, or not the same records. In a run that has begun this concerns the
                party that comes, in whose place the one before still counts.
            RemoteProtocolError: if it says what cannot be.
        """
        if max(status.epoch, status.known) > self.newest() + _MOST_EPOCHS:
            raise RemoteProtocolError(
                f"`{self.terms.name(party)}` says that epoch {status.known} has begun."
            )
        if (known := self.there.get(party)) and known.instance == status.instance:
            if (known.epoch, max(known.durable, default=-1)) > (
                status.epoch,
                max(status.durable, default=-1),
            ):
                return None  # said earlier, and late
        before = dict(self.there), {*self.missing}, {*self.returned}
        if party in self.missing:
            self.missing.discard(party)
            self.returned.add(party)
        elif self.start is not None and status.epoch == self.start.epoch:
            self.returned.discard(party)
        self.there[party] = status
        try:
            return self.begin()
        except Refused as error:
            if self.start is None:
                raise
            self.there, self.missing, self.returned = before
            raise Refused(str(error), alone=True) from None

    def newest(self) -> int:
        """The newest epoch of which anyone has said to have heard."""
        return max(
            [max(s.epoch, s.known) for s in self.there.values()]
            + [self.start.epoch if self.start else 0]
        )

    def skip(self, parties: Iterable[int]) -> Start | None:
        """Go on without some parties, if those that are left can. Gives the epoch that begins so."""
        gone = {*self.missing, *parties}
        if all(any(p in gone for p in client) for client in self.terms.clients):
            return None
        self.missing = gone
        return self.begin()

    @property
    def present(self) -> list[int]:
        """Those without whom nothing begins."""
        return [p for p in range(len(self.terms.parties)) if p not in self.missing]

    def begin(self) -> Start | None:
        """The next epoch, if all are there that must be, and something has changed."""
        if any(p not in self.there for p in self.present):
            return None
        instances = tuple(
            0 if p in self.missing else self.there[p].instance
            for p in range(len(self.terms.parties))
        )
        if self.start is not None and self.start.instances == instances:
            return None
        records = same_records(
            {self.terms.parties[p]: self.there[p] for p in self.present}
        )
        if (step := self.common()) is None:
            has = "; ".join(
                f"`{self.terms.parties[p]}` {list(self.there[p].durable) or 'none'}"
                for p in self.present
            )
            raise Refused(
                f"the parties have no checkpoint in common, so none can go on: {has}."
            )
        epoch = 1 + self.newest()
        now = tuple(
            c
            for c, client in enumerate(self.terms.clients)
            if any(p in self.missing for p in client)
        )
        before = tuple(x for x in self.away if x[0] < step)
        self.away = (
            before
            if now == (before[-1][1] if before else ())
            else (*before, (step, now))
        )
        self.start = Start(epoch, step, instances, records, self.away)
        return self.start

    def common(self) -> int | None:
        """The newest step that all have on disk that were there all the time."""
        having = [p for p in self.present if p not in self.returned]
        if any(p not in self.there for p in having):
            return None
        return max(
            set.intersection(*(set(self.there[p].durable) for p in having)),
            default=None,
        )

    def committed(self) -> int | None:
        """The newest step that all have on disk, if all are in this epoch, so that none goes back to an older one."""
        if self.start is None or any(
            self.there[p].epoch != self.start.epoch for p in self.present
        ):
            return None
        return self.common()


def same_records(said: Mapping[str, Status]) -> dict[str, int]:
    """By client, how many records all have that have any.

    Raises:
        Refused: if they are not the same, giving counts.
    """
    clients = dict.fromkeys(c for s in said.values() for c in s.records)
    return {
        client: _same(
            client,
            {p: s.records[client] for p, s in said.items() if client in s.records},
        )
        for client in clients
    }


def _same(client: str, having: Mapping[str, _Said]) -> int:
    counts, of = [n for n, _ in having.values()], f" of `{client}`" if client else ""
    if len({*counts}) > 1:
        each = ", ".join(f"`{p}` {n}" for p, (n, _) in having.items())
        raise Refused(
            f"the parties do not have the same records{of}: {each}; at least {max(counts) - min(counts)} are "
            "missing at one of them."
        )
    bare = [p for p, (_, digest) in having.items() if digest is None]
    if 0 < len(bare) < len(having):
        raise Refused(
            f"the parties do not have the same records{of}: {', '.join(f'`{p}`' for p in bare)} gave them without "
            "ids, others with ids; with them or without, it must be the same at all."
        )
    first, *others = having
    if odd := [p for p in others if having[p][1] != having[first][1]]:
        raise Refused(
            f"the parties do not have the same records{of}: all have {counts[0]}, but those of "
            f"{', '.join(f'`{p}`' for p in odd)} are not those of `{first}`."
        )
    return counts[0]


def number(found: Mapping[str, Any], name: str) -> int:
    n = found.get(name)
    if type(n) is not int or not 0 <= n < 1 << 63:
        raise RemoteProtocolError(f"`{name}` must be a number from 0 on, got {n!r}.")
    return n
