"""What a run asks of a party's connections: to send, to take, to wait as long as was agreed, and to give up in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jsplit.core.trees import frame_bytes, nbytes
from jsplit.party.connection.connections import Connections
from jsplit.party.connection.reach import Reach
from jsplit.party.contract.agreement import Agreement
from jsplit.wire.certs import Trust
from jsplit.wire.member import Member
from jsplit.wire.rendezvous import Refused

_log = logging.getLogger("jsplit.party")


class Missing(TimeoutError):
    """A party did not come, or not come back, while this one was willing to wait."""


class RolledBack(Exception):  # noqa: N818 - it is no error
    """Another epoch has begun: all go on from the step that it says."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """This party was asked to stop while it waited."""


class Network:
    """What a party has sent, received and waited for on its connections.

    Args:
        agreed, party, member, trust, limit: as for `jsplit.party.connection.connections.Connections`.
        reach: how it is reached, and reaches others.

    Attributes:
        epoch: the one that the run is in, which may lag behind `member`'s: then it must go back.
        sent, received: bytes of frames that carry values.
        waited, posting: seconds of waiting for others, and of handing over what is sent.
        asked: whether this party was asked to stop; then it waits for nothing any more.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        member: Member,
        trust: Trust,
        limit: int,
        reach: Reach,
    ):
        self.agreed, self.party, self.member, self.remind = (
            agreed,
            party,
            member,
            reach.remind,
        )
        self.sent, self.received, self.waited, self.posting, self.epoch = (
            0,
            0,
            0.0,
            0.0,
            member.epoch,
        )
        self.asked: Callable[[], bool] = bool
        # where clients may be passed over the lead finds out first, and those that are left need time to go on without
        self.wait_for = float(agreed["patience"]) * (3 if agreed.turns.skips else 1)
        self.connections = Connections(
            agreed,
            party,
            member,
            trust,
            limit,
            listen=reach.listen,
            addresses=reach.addresses,
            pulse=reach.pulse,
        )
        self.changed, self.post, self.close = (
            self.connections.changed,
            self.connections.post,
            self.connections.close,
        )

    def until(
        self,
        there: Callable[[], Any],
        what: str | Callable[[], str],
        whom: Sequence[str] = (),
        patience: float | None = None,
    ) -> None:
        """Wait until something is there.

        Raises:
            RolledBack: if another epoch has begun meanwhile.
            Refused: if the parties cannot work together.
            Stopped: if this party was asked to stop.
            Missing: if it takes longer than agreed.
        """
        patience = self.wait_for if patience is None else patience
        began = last = time.monotonic()
        with self.changed:
            while True:
                if self.connections.fatal:
                    raise self.connections.fatal
                self.current()
                if there():
                    break
                if self.asked():
                    raise Stopped
                now = time.monotonic()
                if self.pass_over(now):
                    continue
                if now - began > patience:
                    trouble = "; ".join(
                        t for p in whom if (t := self.connections.trouble.get(p))
                    )
                    what = what() if callable(what) else what
                    raise Missing(
                        f"`{self.party}` waited {patience:g} s for {what}{': ' + trouble if trouble else ''}"
                    )
                if now - last > self.remind:
                    last = now
                    self.post(self.member.remind())
                self.changed.wait(min(self.remind, 0.5, patience))
        self.waited += time.monotonic() - began

    def pass_over(self, now: float) -> bool:
        """At the lead, and if that was agreed upon: go on without clients that are away for as long as was agreed."""
        member, turns = self.member, self.agreed.turns
        if not turns.skips or member.rendezvous is None:
            return False
        gone = [
            p
            for p, since in self.connections.lost.items()
            if now - since > self.agreed["patience"]
        ]
        late = [
            p
            for p in gone
            if p not in member.rendezvous.missing
            and turns.client_of(self.agreed.parties[p]) is not None
        ]
        try:
            outgoing = member.skip(late) if late else []
        except Refused as error:
            self.connections.fail(error, tell=True)
            raise
        if outgoing:
            _log.warning(
                "%s goes on without %s",
                self.party,
                ", ".join(f"`{self.agreed.parties[p]}`" for p in late),
            )
        self.post(outgoing)
        return bool(outgoing)

    def start(self, over: Callable[[], bool] = bool) -> None:
        """Wait until all are there; the epoch and its first step are then `member.start`. Or until the run is `over`."""
        names = [p for p in self.agreed.parties if p != self.party]

        def there() -> bool:
            return (
                self.member.start is not None
                and self.member.epoch >= self.epoch
                or over()
            )

        with self.changed:
            self.epoch = self.member.epoch
            if not there():
                _log.info(
                    "%s waits for the other parties, %s", self.party, self.absent()
                )
        while True:
            try:
                self.until(there, lambda: f"the other parties, {self.absent()}", names)
                return
            except RolledBack:
                with self.changed:
                    self.epoch = self.member.epoch

    def absent(self) -> str:
        with self.changed:
            there = (
                self.member.rendezvous.there
                if self.member.rendezvous
                else self.connections.lines
            )
            missing = [
                p
                for i, p in enumerate(self.agreed.parties)
                if i not in there and p != self.party
            ]
        return (
            f"of whom {', '.join(f'`{p}`' for p in missing)} did not come"
            if missing
            else "of whom all were connected"
        )

    def send(self, wire: int, step: int, micro: int, arrays: Sequence[Any]) -> None:
        crossing = self.member.terms.crossings[wire]
        session, peer = (
            self.member.sessions[crossing.receiver],
            self.agreed.parties[crossing.receiver],
        )
        data = [np.asarray(x) for x in arrays]
        if not session.may_send(wire, step):
            self.until(
                lambda: session.may_send(wire, step),
                f"`{peer}` to take `{crossing.what}`",
                [peer],
            )
        began = time.monotonic()
        with self.changed:
            self.current()
            outgoing = self.member.send(wire, step, micro, data)
            self.sent += nbytes(data) + frame_bytes(data)
            self.post(outgoing)
        self.posting += time.monotonic() - began

    def there(self, wire: int, step: int, micro: int) -> bool:
        with self.changed:
            return (wire, step, micro) in self.member.inbox

    def wait(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        crossings = [self.member.terms.crossings[w] for w, _, _ in wanted]
        first, peers = crossings[0], [self.agreed.parties[c.sender] for c in crossings]
        what = f"{first.kind} `{first.what}` of step {wanted[0][1]} from `{peers[0]}`"
        self.until(lambda: any(w in self.member.inbox for w in wanted), what, peers)

    def take(self, wire: int, step: int, micro: int) -> Sequence[Any]:
        self.wait([(wire, step, micro)])
        with self.changed:
            self.current()
            found = self.member.take(wire, step, micro)
            assert found is not None
            self.received += nbytes(found) + frame_bytes(found)
        return found

    def current(self) -> None:
        """Raises `RolledBack` if another epoch has begun."""
        if self.member.epoch != self.epoch:
            raise RolledBack

    def finished(self, step: int) -> None:
        with self.changed:
            self.current()
            self.post(self.member.finished(step))

    def durable(self, steps: Sequence[int]) -> None:
        """This party stands in this epoch, and has these steps on disk."""
        with self.changed:
            self.current()
            self.post(self.member.durable(steps))
            self.changed.notify_all()

    def committed(self) -> int:
        """The newest step that all have on disk."""
        with self.changed:
            return self.member.committed

    def awaited(self) -> list[str]:
        """Whose goodbye this party waits for: the lead for that of all, others for the lead's."""
        member = self.member
        others = (
            {*member.sessions} - member.rendezvous.missing
            if member.rendezvous
            else {member.lead}
        )
        return [self.agreed.parties[p] for p in sorted(others)]

    def leave(self, reason: str, awaited: Sequence[str] = ()) -> list[str]:
        """Say goodbye, and stay for up to `patience` until others have; gives who has not.

        Args:
            reason: why, if it is not that all is done.
            awaited: whose goodbye is waited for.
        """
        told: dict[int, Any] = {}
        left, end = (
            {self.agreed.parties.index(p) for p in awaited},
            time.monotonic() + self.agreed["patience"],
        )
        with self.changed:
            while True:
                for (
                    p,
                    line,
                ) in (
                    self.connections.lines.items()
                ):  # one that has come again may not have heard it
                    if told.get(p) is not line:
                        line.put(self.member.bye(p, reason))
                        told[p] = line
                now = time.monotonic()
                if (
                    self.member.done >= left
                    or self.connections.fatal
                    or self.asked()
                    or now > end
                ):
                    break
                self.changed.wait(min(end - now, 0.5))
            left -= self.member.done
        self.connections.leave(reason)
        return [self.agreed.parties[p] for p in sorted(left)]
