"""A party's connections: threads around the protocol, which does no I/O. They dial, and dial again, and read what comes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

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


def identity_of(agreed: Agreement, party: str, trust: Trust) -> str:
    """What a party's certificate says, or without certificates its name."""
    return agreed["identities"].get(party, uri_of(party)) if isinstance(trust, Credentials) else party


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
        self.changed = threading.Condition()
        self.lines: dict[int, Line] = {}
        self.trouble: dict[str, str] = {}
        self.fatal: Exception | None = None
        self.closing = threading.Event()
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
            all_are_concerned = same and not error.alone and (head.epoch == self.member.epoch > 0 or ours and lead)
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
