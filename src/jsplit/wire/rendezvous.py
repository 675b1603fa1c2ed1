"""Who is there, and from which step all go on: the lead's part. No I/O.

Every party says which steps it has on disk. Once all are there that
must be, the next epoch begins at the newest step that all have; a party
that comes back as another process begins another epoch, so that all
roll back together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from jsplit.wire.claims import check_arrival
from jsplit.wire.control import Start, Status
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.rota import Away
from jsplit.wire.same_records import same_records
from jsplit.wire.terms import Terms

_MOST_EPOCHS = 1 << 32
"""By how much the epoch that a party has heard of may be ahead of those that all others
have.
"""


@dataclass
class Rendezvous:
    """The lead's part: who is there, which epoch it is, and what all have on disk.

    Args:
        terms: of the run.
        away: which clients were passed over before this process began.

    Attributes:
        there: by party, the newest status that it has sent.
        start: the epoch that has begun.
        missing: the parties that are passed over.
        returned: the parties that have come back after they were passed
            over, until they stand where all do.
        kept_out: of parties that were passed over, the step that all others must be
            beyond before they may come back.
    """

    terms: Terms
    away: Away = ()
    there: dict[int, Status] = field(default_factory=dict[int, Status])
    start: Start | None = None
    missing: set[int] = field(default_factory=set[int])
    returned: set[int] = field(default_factory=set[int])
    kept_out: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        if self.away:
            _, gone = self.away[-1]
            self.missing = {
                party for client in gone for party in self.terms.clients[client]
            }

    @property
    def present(self) -> list[int]:
        """Those without whom nothing begins."""
        return [p for p in range(len(self.terms.parties)) if p not in self.missing]

    @property
    def newest(self) -> int:
        """The newest epoch of which anyone has said to have heard."""
        heard = [max(status.epoch, status.known) for status in self.there.values()]
        return max([*heard, self.start.epoch if self.start else 0])

    def arrive(self, party: int, status: Status) -> Start | None:
        """Take note of what a party says it has.

        Returns:
            The epoch that begins with it, if all are there and one is
            begun.

        Raises:
            Refused: if the parties have no step in common, or not the
                same records. In a run that has begun this concerns the
                party that comes, in whose place the one before still
                counts.
            RemoteProtocolError: if it says what cannot be.
        """
        # Else one party could use up all numbers that an epoch may have.
        if max(status.epoch, status.known) > self.newest + _MOST_EPOCHS:
            raise RemoteProtocolError(
                f"`{self.terms.name(party)}` says that epoch {status.known} has begun."
            )
        known = self.there.get(party)
        if (
            known
            and known.instance == status.instance
            and known.progress > status.progress
        ):
            return None  # it was said earlier, and has come late
        check_arrival(self.terms, party, status, known, self.start, self.committed())
        before = dict(self.there), {*self.missing}, {*self.returned}
        if party in self.missing and status.ready and self._may_return(party):
            # Not before: all others go on without it until it can begin.
            self.missing.discard(party)
            self.returned.add(party)
        elif self.start is not None and status.epoch == self.start.epoch:
            self.returned.discard(party)
        self.there[party] = status
        try:
            return self._begin()
        except Refused as error:
            if self.start is None:
                raise
            # A run that goes on is not brought down by one that comes with
            # the wrong things.
            self.there, self.missing, self.returned = before
            raise Refused(str(error), alone=True, again=error.again) from None

    def keep_out(self, parties: Iterable[int], step: int) -> None:
        """Let parties that are passed over come back only once all others are beyond a step."""
        self.kept_out |= dict.fromkeys(self.missing.intersection(parties), step)

    def _may_return(self, party: int) -> bool:
        """Whether a party that was passed over may let all go back once more."""
        committed = self.committed()
        beyond = self.kept_out.get(party, -1)
        return beyond < 0 or committed is not None and committed > beyond

    def skip(self, parties: Iterable[int]) -> Start | None:
        """Go on without some parties, if those that are left can.

        Returns:
            The epoch that begins so.
        """
        gone = {*self.missing, *parties}
        if all(any(party in gone for party in client) for client in self.terms.clients):
            return None  # no client would be left
        self.missing = gone
        return self._begin()

    def _begin(self) -> Start | None:
        """The next epoch, if all are there that must be, and something has changed."""
        if self.awaited():
            return None
        instances = tuple(
            0 if party in self.missing else self.there[party].instance
            for party in range(len(self.terms.parties))
        )
        # The same processes on new connections have lost nothing, so they
        # need no new epoch.
        if self.start is not None and self.start.instances == instances:
            return None
        records = same_records(
            {self.terms.parties[p]: self.there[p] for p in self.present}
        )
        step = self.common()
        if step is None:
            # Of inference each has said what it found when it started, and a training
            # beside it may have gone on between.
            hint = " Start all at once, if they are trained meanwhile."
            raise Refused(
                "the parties have no checkpoint in common, so none can go on: "
                f"{self._checkpoints()}.{hint if self.terms.anew else ''}",
                again=self.terms.anew,
            )
        self.away = self._away_from(step)
        # Higher than all that anyone has heard of: the lead itself may have
        # forgotten the last.
        self.start = Start(1 + self.newest, step, instances, records, self.away)
        return self.start

    def awaited(self) -> list[int]:
        """Those that are not there, or not ready, of whom nobody is passed over."""
        ready = [p for p, status in self.there.items() if status.ready]
        return [party for party in self.present if party not in ready]

    def _checkpoints(self) -> str:
        """What each party has on disk, in words."""
        each = [(p, list(self.there[p].durable) or "none") for p in self.present]
        return "; ".join(f"`{self.terms.parties[p]}` {steps}" for p, steps in each)

    def _away_from(self, step: int) -> Away:
        """Who was away until `step`, and who is from there on."""
        clients = enumerate(self.terms.clients)
        now = tuple(
            c for c, parties in clients if any(p in self.missing for p in parties)
        )
        # All go back to `step`: what was decided for later steps has never
        # been.
        past = tuple(entry for entry in self.away if entry[0] < step)
        before = past[-1][1] if past else ()
        return past if now == before else (*past, (step, now))

    def common(self) -> int | None:
        """The newest step that all have on disk that were there all the time."""
        having = [party for party in self.present if party not in self.returned]
        if any(party not in self.there for party in having):
            return None
        durable = [set(self.there[party].durable) for party in having]
        return max(set[int].intersection(*durable), default=None)

    def committed(self) -> int | None:
        """The newest step that all have on disk, if all are in this epoch."""
        # Else one may still go back to an older step, which the others must
        # not delete by then.
        if self.start is None:
            return None
        epoch = self.start.epoch
        if any(self.there[party].epoch != epoch for party in self.present):
            return None
        return self.common()
