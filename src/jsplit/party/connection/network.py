"""What a run asks of a party's connections: to send, to take, and to wait in bounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jax.typing import ArrayLike

from jsplit.party.connection.absence import absent, missing, tell_of_wait
from jsplit.party.connection.connections import Connections
from jsplit.party.connection.farewell import awaited_by, say_goodbye
from jsplit.party.connection.interrupts import RolledBack, Stopped
from jsplit.party.connection.reach import Reach, default_transport
from jsplit.party.connection.skipping import pass_over
from jsplit.party.contract.agreement import Agreement
from jsplit.wire.certs import Trust
from jsplit.wire.errors import Refused
from jsplit.wire.layout import bytes_on_the_wire
from jsplit.wire.member import Member
from jsplit.wire.transport import Pulse

_log = logging.getLogger("jsplit.party")
_STEP = 0.5
"""Seconds after which a party that waits looks again, though nothing has come."""


class Network:
    """What a party has sent, received and waited for on its connections.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        member: its side of the protocol.
        trust: its credentials.
        limit: the most bytes that the arrays of one frame may take.
        reach: how it reaches the others.

    Attributes:
        epoch: the one that the run is in; if it lags behind `member`'s it must go back.
        sent, received: bytes of frames that carry values, so far.
        waited: seconds of waiting for others.
        posting: seconds of handing over what is sent.
        asked: whether this party was asked to stop; then it waits for nothing any more.

    Raises:
        ValueError: naming `addresses`, if they are none.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        member: Member,
        trust: Trust,
        limit: int,
        reach: Reach | None = None,
    ):
        reach = reach or Reach()
        self.agreed, self.party, self.member = agreed, party, member
        self.names, self.remind = agreed.parties, reach.remind
        self.sent, self.received, self.waited, self.posting = 0, 0, 0.0, 0.0
        self.epoch = member.epoch
        self.asked: Callable[[], bool] = bool
        # Where clients may be passed over the lead finds out first, and those that are
        # left need time to go on without.
        self.wait_for = float(agreed.patience) * (3 if agreed.turns.skips else 1)
        # Not `or`: a transport may have a length of its own, as of no connections yet.
        given = reach.transport
        transport = default_transport() if given is None else given
        self.connections = Connections(
            agreed,
            party,
            member,
            trust,
            limit,
            transport,
            listen=reach.listen,
            addresses=reach.addresses,
            pulse=Pulse(*reach.pulse),
        )
        self.peers = self.connections.peers
        self.changed, self.post = self.peers.changed, self.peers.post
        self.vigil = self.peers.vigil
        self.signs = self.vigil.give(self._say_sign)

    def close(self) -> None:
        """Leave, at the latest now."""
        self.vigil.end()
        self.connections.close()

    def _say_sign(self) -> None:
        with self.changed:
            self.post(self.member.sign(self.vigil.sign(self.member.epoch)))

    # Waiting.

    def until(
        self,
        there: Callable[[], bool],
        what: str | Callable[[], str],
        whom: Sequence[str] = (),
        patience: float | None = None,
    ) -> None:
        """Wait until something is there.

        Args:
            there: whether it is.
            what: what is waited for, in words.
            whom: the parties that it is waited for from.
            patience: seconds, if not as many as agreed.

        Raises:
            RolledBack: if another epoch has begun meanwhile.
            Refused: if the parties cannot work together.
            Stopped: if this party was asked to stop.
            Missing: if nobody was at work for as long as agreed.
        """
        patience = self.wait_for if patience is None else patience
        began = last = told = time.monotonic()
        with self.changed, self.vigil.waiting():
            while True:
                if self.peers.fatal:
                    raise self.peers.fatal
                # Before a look at what is there: it may be there of an epoch that is no
                # more.
                self.current()
                if there():
                    break
                if self.asked():
                    raise Stopped
                now = time.monotonic()
                if pass_over(self.peers, began, now):
                    continue
                if now - self.vigil.quiet_since(began) > patience:
                    raise missing(self.peers, patience, what, whom)
                if now - last > self.remind:
                    last = now
                    self.post(self.member.resend())
                told = tell_of_wait(self.peers, what, began, told)
                self.changed.wait(min(self.remind, _STEP, patience))
        self.waited += time.monotonic() - began

    def current(self) -> None:
        """Raise `RolledBack` if another epoch has begun."""
        if self.member.epoch != self.epoch:
            raise RolledBack

    # Epochs.

    def start(self, over: Callable[[], bool] = bool) -> None:
        """Wait until all are there; then `member.start` says from which step all go on.

        Args:
            over: whether the run is over, so that none will begin.
        """
        names, member = [p for p in self.names if p != self.party], self.member

        def there() -> bool:
            begun = member.start is not None and member.epoch >= self.epoch
            return begun or over()

        with self.changed:
            self.epoch = member.epoch
            if not there():
                # Whoever starts first waits for the others: that is no failure yet.
                absent = self._absent().replace("did not come", "did not come yet")
                _log.info("%s waits for the other parties, %s", self.party, absent)
        while True:
            try:
                self.until(there, lambda: f"the other parties, {self._absent()}", names)
                # Steps of inference are counted from 0, whatever it begins with.
                if member.start is not None and not member.terms.anew:
                    self.vigil.step = member.start.step
                return
            except RolledBack:
                # The one that is waited for has begun, or already the one after it.
                with self.changed:
                    self.epoch = member.epoch

    def _absent(self) -> str:
        with self.changed:
            return absent(self.peers)

    # Values.

    def send(
        self, wire: int, step: int, micro: int, arrays: Sequence[ArrayLike]
    ) -> None:
        """Send a value, as soon as the peer has come near enough to take it.

        Args:
            wire: its place among all crossings.
            step: of the run.
            micro: the micro-batch.
            arrays: of the shapes agreed upon.
        """
        receiver = self.member.terms.crossings[wire].receiver
        session = self.member.sessions[receiver]
        data = list(map(np.asarray, arrays))
        if not session.may_send(wire, step):
            peer, what = self.names[receiver], self.member.terms.crossings[wire].what
            ready = partial(session.may_send, wire, step)
            self.until(ready, f"`{peer}` to take `{what}`", [peer])
        began = time.monotonic()
        with self.changed:
            self.current()
            self.post(self.member.send(wire, step, micro, data))
            self.sent += bytes_on_the_wire(data)
        self.posting += time.monotonic() - began

    def there(self, wire: int, step: int, micro: int) -> bool:
        """Whether a value has come."""
        with self.changed:
            return (wire, step, micro) in self.member.inbox

    def wait(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Wait until one of several values has come: `(wire, step, micro-batch)` of each."""
        wire, step, _ = wanted[0]
        first, sender = self.member.terms.crossings[wire], self.member.traffic.sender
        peers = [self.names[sender(wire, step)] for wire, step, _ in wanted]
        what = f"{first.kind} `{first.what}` of step {step} from `{peers[0]}`"
        inbox = self.member.inbox
        self.until(lambda: any(value in inbox for value in wanted), what, peers)

    def take(self, wire: int, step: int, micro: int) -> Sequence[np.ndarray]:
        """The arrays of a value; waits for it."""
        self.wait([(wire, step, micro)])
        with self.changed:
            # Between the two a new epoch may have thrown away what was there.
            self.current()
            found = self.member.take(wire, step, micro)
            assert found is not None
            self.received += bytes_on_the_wire(found)
        return found

    # Progress.

    def ready(self) -> None:
        """Say that this party can begin."""
        with self.changed:
            try:
                self.post(self.member.ready())
            except Refused as error:
                # The lead, as the last that got ready, has found what others must know.
                self.peers.fail(error, tell=True)
                raise
            self.changed.notify_all()

    def finished(self, step: int) -> None:
        """Say that this party has finished a step, to those to whom no value says it."""
        self.vigil.step = step + 1
        with self.changed:
            self.current()
            self.post(self.member.finished(step))

    def durable(self, steps: Sequence[int]) -> None:
        """Say that this party stands in this epoch, and has these steps on disk."""
        with self.changed:
            self.current()
            self.post(self.member.durable(steps))
            # At the lead it may be this that all have waited for.
            self.changed.notify_all()

    def committed(self) -> int:
        """The newest step that all have on disk."""
        with self.changed:
            return self.member.committed

    # The end.

    def awaited(self) -> list[str]:
        """Whose goodbye this party waits for."""
        return [self.names[peer] for peer in awaited_by(self.member)]

    def refuse(self, reason: str) -> Refused:
        """End the run for all, and say why; it is raised where this party next waits.

        Returns:
            The error, for who does not wait any more.
        """
        error = Refused(reason)
        self.peers.fail(error, tell=True)
        return error

    def leave(self, reason: str, awaited: Sequence[str] = ()) -> list[str]:
        """Say goodbye, and stay for up to `patience`; gives who has not said it too.

        Args:
            reason: why, if it is not that all is done.
            awaited: whose goodbye is waited for.
        """
        places = [self.names.index(party) for party in awaited]
        with self.vigil.waiting():
            left = say_goodbye(self.peers, reason, places, self.asked)
        self.connections.leave(reason)
        return [self.names[peer] for peer in sorted(left)]
