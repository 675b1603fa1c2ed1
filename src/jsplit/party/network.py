"""A party's connections: threads around the protocol, which does no I/O. They dial, wait, remind, and give up in time."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jsplit.base import frame_bytes, nbytes
from jsplit.party.agreement import Agreement
from jsplit.party.line import Line
from jsplit.wire.certs import Credentials, Trust, host_of, uri_of
from jsplit.wire.channel import Channel, Closed
from jsplit.wire.codec import CodecError, Head
from jsplit.wire.member import Member, Outgoing
from jsplit.wire.rendezvous import Refused
from jsplit.wire.session import LocalProtocolError, RemoteProtocolError

log = logging.getLogger("jsplit.party")
SLOWEST = 5.0
"""Seconds between two attempts to connect, at most."""


class Missing(TimeoutError):
    """A party did not come, or not come back, while this one was willing to wait."""


class RolledBack(Exception):  # noqa: N818 - it is no error
    """Another epoch has begun: all go on from the step that it says."""


def identity_of(agreed: Agreement, party: str, trust: Trust) -> str:
    """What a party's certificate says, or without certificates its name."""
    return agreed["identities"].get(party, uri_of(party)) if isinstance(trust, Credentials) else party


class Network:
    """All connections of one party.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        member: its side of the protocol.
        trust: its credentials.
        limit: the most bytes that the arrays of one frame may take.
        listen: where to listen, if not at the address that the others dial.
        addresses: where to dial parties, if not at the addresses of the agreement.
        remind: seconds of waiting after which what may have been lost is asked for again.
        pulse: see `jsplit.wire.rpc.Pulse`.
    """

    def __init__(
        self, agreed: Agreement, party: str, member: Member, trust: Trust, limit: int, *, listen: str | None = None,
        addresses: Mapping[str, str] | None = None, remind: float = 5.0, pulse: Sequence[float] = (10.0, 10.0),
    ):  # fmt: skip
        from jsplit.wire import rpc

        self.agreed, self.party, self.member, self.trust, self.limit = agreed, party, member, trust, limit
        self.patience, self.remind, self.pulse = float(agreed["patience"]), remind, rpc.Pulse(*pulse)
        self.wait_for = self.patience
        if agreed.turns.skips:  # the lead finds out first, and those that are left need some time to go on without
            self.wait_for = 3 * self.patience
        self.changed = threading.Condition()
        self.lines: dict[int, Line] = {}
        self.trouble: dict[str, str] = {}
        self.fatal: Exception | None = None
        self.closing = threading.Event()
        self.sent, self.received, self.waited, self.posting = 0, 0, 0.0, 0.0
        self.epoch = member.epoch
        self.lost = dict.fromkeys(member.sessions, time.monotonic())
        self.listener = None
        self.threads: list[threading.Thread] = []
        reach, self.rpc = agreed.reach(party), rpc
        if party in agreed["addresses"]:
            known = {identity_of(agreed, p, trust): p for p in agreed.parties if p != party}
            self.listener = rpc.Listener(
                listen or agreed["addresses"][party], trust, known, self.met, limit, self.pulse
            )  # fmt: skip
        for other, how in reach.items():
            if how == "dial":
                address = {**agreed["addresses"], **(addresses or {})}[other]
                thread = threading.Thread(target=self.dial, args=(other, address), name=f"jsplit-dial-{other}", daemon=True)
                self.threads.append(thread)
                thread.start()

    @property
    def port(self) -> int | None:
        return self.listener.port if self.listener else None

    # Connections

    def met(self, party: str, opened: Callable) -> None:
        peer = self.agreed.parties.index(party)
        self.serve(peer, opened(lambda head: self.accept(peer, head)))

    def dial(self, party: str, address: str) -> None:
        """Connect, and connect again whenever the connection is lost, ever more slowly."""
        peer, pause = self.agreed.parties.index(party), 0.05
        host = self.agreed["hosts"].get(party, host_of(party))
        while not self.closing.is_set():
            try:
                channel = self.rpc.dial(
                    address, party, self.trust, self.limit, lambda head: self.accept(peer, head), host=host,
                    timeout=min(self.patience, 10.0), pulse=self.pulse,
                )  # fmt: skip
            except Closed as error:
                self.note(party, str(error))
            else:
                began = time.monotonic()
                self.serve(peer, channel)
                pause = 0.05 if time.monotonic() - began > 1 else pause
            self.closing.wait(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, SLOWEST)

    def note(self, party: str, trouble: str) -> None:
        if self.trouble.get(party) != trouble and not self.closing.is_set():
            log.info("%s: %s", self.party, trouble)
        self.trouble[party] = trouble

    def accept(self, peer: int, head: Head) -> None:
        with self.changed:
            self.member.accept(peer, head)

    def serve(self, peer: int, channel: Channel) -> None:
        """Read a connection until it is lost. A newer one with the same party takes its place."""
        line, frame = Line(channel, self.patience), None
        with self.changed:
            if old := self.lines.pop(peer, None):
                old.close(f"`{channel.peer}` has connected again.")
            self.lines[peer] = line
            self.lost.pop(peer, None)
            line.put(self.member.hello(peer))
        try:
            while not self.closing.is_set():
                try:
                    frame = channel.receive(1.0)
                except TimeoutError:
                    continue
                with self.changed:
                    if self.lines.get(peer) is not line:
                        return
                    self.post(self.member.receive(peer, frame))
                    self.changed.notify_all()
        except Closed as error:
            self.note(channel.peer, str(error))
        except (CodecError, RemoteProtocolError) as error:
            log.warning("%s refused what `%s` sent: %s", self.party, channel.peer, error)
            self.note(channel.peer, str(error))
        except Refused as error:
            log.error("%s: %s", self.party, error)
            head = frame.head if frame else self.member.head("refusal", peer)
            ours = head.kind != "refusal"  # this party refuses; else it was refused
            same, lead = head.run == self.member.terms.run, self.member.rendezvous is not None
            all_are_concerned = same and (head.epoch == self.member.epoch > 0 or ours and lead)
            if ours:
                line.put(self.member.refusal(peer, str(error)))
                line.flush(1.0)
                line.close(str(error), 1.0)
            self.note(channel.peer, str(error))
            if all_are_concerned or self.agreed.reach(self.party)[channel.peer] == "dial":
                self.fail(error, tell=all_are_concerned and (ours or lead))
        except LocalProtocolError as error:
            self.fail(error, tell=False)
        except Exception:  # whatever a peer may bring about costs it its connection, and this party nothing else
            log.exception("%s: the connection with `%s` ends", self.party, channel.peer)
        finally:
            with self.changed:
                if self.lines.get(peer) is line:
                    del self.lines[peer]
                    self.lost[peer] = time.monotonic()
                self.changed.notify_all()
            if not self.closing.is_set():  # or else whoever leaves closes it, when its last word is out
                line.close("the connection is closed.")

    def fail(self, error: Exception, *, tell: bool) -> None:
        with self.changed:
            self.fatal = self.fatal or error
            if tell:
                for p, line in self.lines.items():
                    line.put(self.member.refusal(p, str(error)))
            self.changed.notify_all()

    def post(self, outgoing: Outgoing) -> None:
        """Hand frames to the connections they go by; without one they are dropped, and asked for when there is one again."""
        for peer, frame in outgoing:
            if line := self.lines.get(self.member.route(peer)):
                line.put(frame)

    # What a run asks for

    def until(
        self, there: Callable[[], Any], what: str | Callable[[], str], whom: Sequence[str] = (), patience: float | None = None
    ) -> None:
        """Wait until something is there.

        Raises:
            RolledBack: if another epoch has begun meanwhile.
            Refused: if the parties cannot work together.
            Missing: if it takes longer than agreed.
        """
        patience = self.wait_for if patience is None else patience
        began = last = time.monotonic()
        with self.changed:
            while True:
                if self.fatal:
                    raise self.fatal
                self.current()
                if there():
                    break
                now = time.monotonic()
                if self.pass_over(now):
                    continue
                if now - began > patience:
                    trouble = "; ".join(t for p in whom if (t := self.trouble.get(p)))
                    what = what() if callable(what) else what
                    raise Missing(f"`{self.party}` waited {patience:g} s for {what}{': ' + trouble if trouble else ''}")
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
        late = [p for p, since in self.lost.items() if now - since > self.patience and p not in member.rendezvous.missing]
        late = [p for p in late if turns.client_of(self.agreed.parties[p]) is not None]
        outgoing = member.skip(late) if late else []
        if outgoing:
            log.warning("%s goes on without %s", self.party, ", ".join(f"`{self.agreed.parties[p]}`" for p in late))
        self.post(outgoing)
        return bool(outgoing)

    def start(self) -> None:
        """Wait until all are there; the epoch and its first step are then `member.start`."""
        names = [p for p in self.agreed.parties if p != self.party]

        def there() -> bool:
            return self.member.start is not None and self.member.epoch >= self.epoch

        with self.changed:
            self.epoch = self.member.epoch
        while True:
            try:
                self.until(there, lambda: f"the other parties, {self.absent()}", names)
                return
            except RolledBack:
                with self.changed:
                    self.epoch = self.member.epoch

    def absent(self) -> str:
        with self.changed:
            there = self.member.rendezvous.there if self.member.rendezvous else self.lines
            missing = [p for i, p in enumerate(self.agreed.parties) if i not in there and p != self.party]
        return f"of whom {', '.join(f'`{p}`' for p in missing)} did not come" if missing else "of whom all were connected"

    def send(self, wire: int, step: int, micro: int, arrays: Sequence[Any]) -> None:
        crossing = self.member.terms.crossings[wire]
        session, peer = self.member.sessions[crossing.receiver], self.agreed.parties[crossing.receiver]
        data = [np.asarray(x) for x in arrays]
        if not session.may_send(wire, step):
            self.until(lambda: session.may_send(wire, step), f"`{peer}` to take `{crossing.what}`", [peer])
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

    def leave(self, reason: str, linger: float = 10.0) -> None:
        """Say goodbye. The lead stays until all have, so that its last word reaches them."""
        with self.changed:
            for p in self.lines:
                self.lines[p].put(self.member.bye(p, reason))
            if self.member.rendezvous and not reason:
                others = {*self.member.sessions} - self.member.rendezvous.missing
                self.changed.wait_for(lambda: self.member.gone >= others or self.fatal, linger)
            lines = list(self.lines.values())
        for line in lines:
            line.flush(2.0)
        self.closing.set()
        for line in lines:
            line.close(f"`{self.party}` has left.", 2.0)

    def close(self) -> None:
        self.closing.set()
        with self.changed:
            lines = list(self.lines.values())
        for line in lines:
            line.flush(1.0 if self.fatal else 0.0)
            line.close(f"`{self.party}` has left.", 1.0 if self.fatal else 0.0)
        if self.listener:
            self.listener.close()
        for thread in self.threads:
            thread.join(5.0)
