"""A party's connections: threads around the protocol, which does no I/O. They dial, and dial again, and read what comes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from jsplit.party.connection.outbox import Outbox
from jsplit.party.contract.agreement import Agreement
from jsplit.wire import codec
from jsplit.wire.certs import Credentials, Trust, host_of, uri_of
from jsplit.wire.channel import Channel, Closed
from jsplit.wire.codec import CodecError, Frame, Head
from jsplit.wire.member import Member, Outgoing
from jsplit.wire.rendezvous import Refused
from jsplit.wire.session import LocalProtocolError, RemoteProtocolError

_log = logging.getLogger("jsplit.party")
_SLOWEST = 5.0
"""Seconds between two attempts to connect, at most."""
_TELLING = 5.0
"""Seconds that a party whose run is over for all stays, at most, until those that it had a connection with know why."""
_SPARE = 64
"""Frames that may be due on a connection beyond those that carry values: what control frames say is soon said."""


def identity_of(agreed: Agreement, party: str, trust: Trust) -> str:
    """What a party's certificate says, or without certificates its name."""
    return (
        agreed["identities"].get(party, uri_of(party))
        if isinstance(trust, Credentials)
        else party
    )


class Connections:
    """All connections of one party.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        member: its side of the protocol.
        trust: its credentials.
        limit: the most bytes that the arrays of one frame may take.
        listen: where to listen, if not at the address that the others dial.
        addresses: where to dial parties, if not at the addresses of the agreement.
        pulse: see `jsplit.wire.rpc.Pulse`, whose defaults are taken for what is left out.

    Attributes:
        changed: held by whoever touches `member` or one of these; told when something has come.
        lines: by peer, the connection by which it is reached.
        lost: by peer, since when there is none.
        trouble: by party, what was wrong with its connection last, or why it left; nothing once it is there again.
        fatal: why this party cannot go on.

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
        *,
        listen: str | None = None,
        addresses: Mapping[str, str] | None = None,
        pulse: Sequence[float] = (),
    ):
        from jsplit.wire import rpc

        where = agreed.replace(addresses={**agreed["addresses"], **(addresses or {})})[
            "addresses"
        ]
        self.agreed, self.party, self.member, self.trust, self.limit = (
            agreed,
            party,
            member,
            trust,
            limit,
        )
        self.patience, self.pulse, self.rpc = (
            float(agreed["patience"]),
            rpc.Pulse(*pulse),
            rpc,
        )
        terms = member.terms
        self.most = _SPARE + sum(
            terms.window * terms.parts(wire) for wire in range(len(terms.crossings))
        )
        self.changed = threading.Condition()
        self.lines: dict[int, Outbox] = {}
        self.every: set[Outbox] = (
            set()
        )  # with those that end, or that have not said who they are
        self.lost = dict.fromkeys(member.sessions, time.monotonic())
        self.trouble: dict[str, str] = {}
        self.fatal: Exception | None = None
        self.verdict: str | None = None  # what all are told, if it is over for all
        self.known: set[int] = set()
        self.told: dict[int, Outbox] = {}
        self.closing = threading.Event()
        self.listener = None
        self.threads: list[threading.Thread] = []
        if party in agreed["addresses"]:
            known = {
                identity_of(agreed, p, trust): p for p in agreed.parties if p != party
            }
            self.listener = rpc.Listener(
                listen or agreed["addresses"][party],
                trust,
                known,
                self.met,
                limit,
                self.pulse,
            )
        for other, how in agreed.reach(party).items():
            if how == "dial":
                given = (other, where[other])
                self.threads.append(
                    threading.Thread(
                        target=self.dial,
                        args=given,
                        name=f"jsplit-dial-{other}",
                        daemon=True,
                    )
                )
        for thread in self.threads:
            thread.start()

    def met(self, party: str, opened: Callable) -> None:
        peer = self.agreed.parties.index(party)
        self.serve(peer, opened(lambda head: self.accept(peer, head)))

    def dial(self, party: str, address: str) -> None:
        """Connect, and connect again whenever the connection is lost, ever more slowly."""
        peer, pause = self.agreed.parties.index(party), 0.05
        host = self.agreed["hosts"].get(party, host_of(party))
        try:
            while not self.closing.is_set():
                try:
                    channel = self.rpc.dial(
                        address,
                        party,
                        self.trust,
                        self.limit,
                        lambda head: self.accept(peer, head),
                        host=host,
                        timeout=min(self.patience, 10.0),
                        pulse=self.pulse,
                    )
                except Closed as error:
                    self.note(peer, str(error))
                else:
                    began = time.monotonic()
                    self.serve(peer, channel)
                    pause = 0.05 if time.monotonic() - began > 1 else pause
                self.closing.wait(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _SLOWEST)
        except Exception as error:  # not the peer's doing: nobody dials it any more
            self.fail(error, tell=False)

    def note(self, peer: int, trouble: str) -> None:
        party = self.agreed.parties[peer]
        with self.changed:
            if (
                peer in self.member.gone or self.trouble.get(party) == trouble
            ):  # if it is gone, it has said why it left
                return
            self.trouble[party] = trouble
            if not self.closing.is_set():
                _log.info("%s: %s", self.party, trouble)

    def accept(self, peer: int, head: Head) -> None:
        with self.changed:
            self.member.accept(peer, head)

    def serve(self, peer: int, channel: Channel) -> None:
        """Read a connection until it is lost, and see it to its end."""
        with self.changed:
            line = Outbox(
                channel,
                self.patience,
                self.most,
                lambda error: self.fail(error, tell=False),
            )
            self.every.add(line)
            if self.closing.is_set():
                line.cut(f"`{self.party}` has left.")
            else:
                self.lines.setdefault(peer, line)
            line.put(self.member.hello(peer))
            if self.verdict is not None:
                self.refuse(peer, line, self.verdict)
        trouble = self.read(peer, line)
        with self.changed:
            if (
                self.lines.get(peer, line) is line
            ):  # else a newer one has taken its place
                self.lines.pop(peer, None)
                self.lost.setdefault(peer, time.monotonic())
                self.note(peer, trouble)
            self.changed.notify_all()
        line.end("the connection is closed.")
        line.join()
        with self.changed:
            self.every.discard(line)

    def read(self, peer: int, line: Outbox) -> str:
        """Take what comes on a connection until it ends; gives why it did."""
        heard = False
        try:
            while True:
                try:
                    frame = line.channel.receive(1.0)
                except TimeoutError:
                    continue
                with self.changed:
                    if heard and self.lines.get(peer) is not line:
                        return "a newer connection has taken its place."
                    try:
                        heard = self.take(peer, line, frame, heard)
                    except Refused as error:
                        self.refused(peer, line, frame.head, error)
                        return str(error)
        except Closed as error:
            return str(error)
        except (CodecError, RemoteProtocolError) as error:
            _log.warning(
                "%s refused what `%s` sent: %s", self.party, line.channel.peer, error
            )
            return str(error)
        except LocalProtocolError as error:
            self.fail(error, tell=False)
            return str(error)
        except Exception as error:  # whatever a peer may bring about costs it its connection, and this party nothing else
            _log.exception(
                "%s: the connection with `%s` ends", self.party, line.channel.peer
            )
            return str(error)

    def take(self, peer: int, line: Outbox, frame: Frame, heard: bool) -> bool:
        """A frame has come. A connection counts from its hello on; then the one before it is closed."""
        party = self.agreed.parties[peer]
        if not heard and frame.head.kind != "hello":
            raise RemoteProtocolError(
                f"`{party}` sent {frame.head.kind} before it said hello."
            )
        outgoing = self.member.receive(peer, frame)
        if not heard:
            if (old := self.lines.get(peer)) and old is not line:
                old.cut(f"`{party}` has connected again.")
            self.lines[peer] = line
            self.known.add(peer)
            self.lost.pop(peer, None)
            self.trouble.pop(party, None)
        if frame.head.kind == "bye":
            reason = str(codec.about(frame).get("reason") or "")[:1000]
            self.trouble[party] = (
                f"`{party}` has left{': ' + reason if reason else '.'}"
            )
            _log.info("%s: %s", self.party, self.trouble[party])
        self.post(outgoing)
        self.changed.notify_all()
        return True

    def refused(self, peer: int, line: Outbox, head: Head, error: Refused) -> None:
        """Either side refuses the other, because of a frame with this head: whom that concerns, is told and ends."""
        _log.error("%s: %s", self.party, error)
        ours = head.kind != "refusal"  # this party refuses; else it was refused
        same, lead = (
            head.run == self.member.terms.run,
            self.member.rendezvous is not None,
        )
        everyone = (
            same
            and not error.alone
            and (head.epoch == self.member.epoch > 0 or ours and lead)
        )
        if ours:
            line.put(self.member.refusal(peer, str(error)))
        if everyone or self.agreed.reach(self.party)[line.channel.peer] == "dial":
            self.fail(error, tell=everyone and (ours or lead))

    def fail(self, error: Exception, *, tell: bool) -> None:
        """The run is over for this party, or for all, who are told so."""
        with self.changed:
            self.fatal = self.fatal or error
            if tell and self.verdict is None:
                self.verdict = str(error)
                for peer, line in self.lines.items():
                    self.refuse(peer, line, self.verdict)
            self.changed.notify_all()

    def refuse(self, peer: int, line: Outbox, reason: str) -> None:
        line.put(self.member.refusal(peer, reason))
        self.told[peer] = line

    def post(self, outgoing: Outgoing) -> None:
        """Hand frames to the connections they go by; without one they are dropped, and asked for when there is one again."""
        for peer, frame in outgoing:
            if line := self.lines.get(self.member.route(peer)):
                line.put(frame)

    def leave(self, reason: str) -> None:
        """Say goodbye, and close all connections when what is due on them went out. From now on there are no new ones."""
        with self.changed:
            self.closing.set()
            lines = list(self.every)
            for peer, line in self.lines.items():
                line.put(self.member.bye(peer, reason))
        for line in lines:
            line.end(f"`{self.party}` has left.")
        for line in lines:
            line.join()

    def close(self) -> None:
        """Leave, at the latest now. If it is over for all, those whose connection is down may come back before, to be told."""
        end = time.monotonic() + _TELLING
        with self.changed:
            while (
                self.verdict is not None
                and not self.all_told()
                and time.monotonic() < end
            ):
                self.changed.wait(0.05)
        self.leave("it could not go on.")
        if self.listener:
            self.listener.close()
        for thread in self.threads:
            thread.join(5.0)

    def all_told(self) -> bool:
        """Whether all that have been here have left, or were told that it is over."""
        return all(
            p in self.told and self.told[p].idle for p in self.known - self.member.gone
        )
