"""One party's side of the whole protocol, and the lead's part in it: who is there, and from which step all go on. No I/O.

Every party tells the lead which checkpoints it has on disk. Once all are there, the lead opens an epoch: all go on from
the newest step that all have. A party that comes back as another process opens the next epoch, so all roll back; a
connection that comes back opens none, what was lost on it is sent again. What control frames say is a state, never
a change, so that it does not matter how often or in which order they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from jsplit.wire import codec
from jsplit.wire.codec import Frame, Head
from jsplit.wire.difference import difference
from jsplit.wire.relay import Outgoing, Seals, passed_on, sealed
from jsplit.wire.rendezvous import (
    MOST_DURABLE,
    Refused,
    Rendezvous,
    Start,
    Status,
    number,
)
from jsplit.wire.session import Away, RemoteProtocolError, Session, Terms


@dataclass
class Member:
    """One party: its sessions with all others, and what it knows of the run.

    Args:
        terms: of the run.
        me: this party; `lead`: the one that opens epochs.
        status: of this process, as it starts.
        said: the agreement, which a hello carries so that the other side can say what differs.
        direct: the parties that this one has a connection with; frames for others go by way of the lead.
        cache: whether what was sent is kept; see `Session`.
        seals: seal what goes by way of the lead, and open what comes so.
        away: at the lead, which clients were passed over before this process began.

    Attributes:
        gone: who has said goodbye, and has not come again; done: who has ever done so because it knows that all is done.
    """

    terms: Terms
    me: int
    lead: int
    status: Status
    said: Mapping[str, Any] = field(default_factory=dict)
    direct: frozenset[int] | None = None
    cache: bool = True
    seals: Seals | None = None
    away: Away = ()
    start: Start | None = None
    committed: int = -1
    gone: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    inbox: dict[tuple[int, int, int], Frame] = field(default_factory=dict)

    def __post_init__(self):
        others = [p for p in range(len(self.terms.parties)) if p != self.me]
        self.sessions = {p: Session(self.terms, self.me, p, self.cache) for p in others}
        self.direct = frozenset(others) if self.direct is None else self.direct
        self.rendezvous = (
            Rendezvous(self.terms, self.away) if self.me == self.lead else None
        )
        if self.rendezvous:
            self.arrive(self.me, self.status)

    @property
    def epoch(self) -> int:
        return self.start.epoch if self.start else self.status.epoch

    def route(self, peer: int) -> int:
        """Whom a frame for `peer` is given to."""
        return peer if peer in (self.direct or ()) else self.lead

    def hello(self, peer: int) -> Frame:
        """What is said first on every connection."""
        return codec.text_of(
            self.head("hello", peer), self.about(peer) | {"agreement": self.said}
        )

    def head(self, kind: str, peer: int) -> Head:
        return Head(
            kind, self.terms.run, self.epoch, self.status.instance, self.me, peer
        )

    def accept(self, peer: int, head: Head) -> None:
        """Refuse what `peer` may not send, before anything is allocated for it.

        Raises:
            RemoteProtocolError: saying why.
        """
        if head.sender == peer and head.receiver == self.me:
            if head.kind == "hello":
                return
            self.sessions[peer].accept(head)
            if (
                head.kind in ("start", "committed")
                and peer != self.lead
                or head.kind == "checkpoint"
                and not self.rendezvous
            ):
                raise RemoteProtocolError(
                    f"`{self.terms.name(peer)}` is not the lead and may not send {head.kind}."
                )
        elif (
            peer == self.lead
            and head.receiver == self.me
            and head.sender in self.sessions
            and head.sender != peer
        ):
            self.sessions[head.sender].accept(head)
            passed_on(head, self.terms.name(self.lead))
        elif self.rendezvous and head.sender == peer and head.receiver in self.sessions:
            if head.run != self.terms.run:
                raise RemoteProtocolError(
                    f"`{self.terms.name(peer)}` sent a frame of another run."
                )
            passed_on(head, self.terms.name(self.lead))
            there = head.value in self.terms.between(head.sender, head.receiver)
            if head.kind in codec.CARRIERS and not (
                there and self.terms.within(head.value, head.step, head.micro)
            ):
                raise RemoteProtocolError(
                    f"`{self.terms.name(peer)}` may not send {head.kind} {head.value} on."
                )
        else:
            raise RemoteProtocolError(
                f"`{self.terms.name(peer)}` sent a frame from `{self.terms.name(head.sender)}` to "
                f"`{self.terms.name(head.receiver)}`."
            )

    def receive(self, peer: int, frame: Frame) -> Outgoing:
        """What is to be sent now that a frame came over the connection with `peer`.

        Raises:
            RemoteProtocolError: if the peer may not send it.
            Refused: if the two cannot work together.
        """
        head = frame.head
        self.accept(peer, head)
        if head.receiver != self.me:
            return [(head.receiver, frame)]
        match head.kind:
            case "hello":
                return self.met(peer, frame)
            case "start":
                return self.begin(Start.of(codec.about(frame), self.terms))
            case "checkpoint":
                status = Status.of(codec.about(frame), self.terms.name(peer))
                known = self.rendezvous.there.get(peer) if self.rendezvous else None
                return (
                    self.arrive(peer, status)
                    if known and known.instance == status.instance
                    else []
                )
            case "committed":
                if (
                    head.epoch
                    in (
                        0,
                        self.epoch,
                    )
                ):  # of this epoch; or the run is over, and the lead has begun none since it started
                    self.committed = max(
                        self.committed, number(codec.about(frame), "step")
                    )
                return []
            case "bye":
                self.gone.add(peer)
                if not codec.about(frame).get("reason"):
                    self.done.add(peer)
                return []
            case "refusal":
                raise Refused(str(codec.about(frame).get("reason"))[:1000])
            case "key":
                return self.keyed(head, codec.about(frame))
        session = self.sessions[head.sender]
        if head.sealed and session.current(head):
            if self.seals is None:
                raise RemoteProtocolError(
                    f"`{self.terms.name(head.sender)}` sent a sealed frame, this party cannot open any."
                )
            if not self.seals.has(head.sender):
                return self.ask_one(head.sender)  # its key was lost on the way
            frame = self.seals.open(frame)
            session.accept(frame.head)
        if session.current(head):
            self.check(frame)
        taken, replies = session.receive(frame)
        if taken is not None:
            self.inbox[head.value, head.step, head.micro] = taken
        return self.sealed([(head.sender, reply) for reply in replies])

    def check(self, frame: Frame) -> None:
        """Refuse NaN and infinite values, if that was agreed upon. What is handed over may hold them, as some optimizers do."""
        head = frame.head
        if (
            self.terms.finite
            and head.kind in ("activation", "cotangent")
            and not codec.finite(frame.arrays)
        ):
            what = f"{head.kind} `{self.terms.crossings[head.value].what}` of step {head.step}"
            raise Refused(
                f"`{self.terms.name(head.sender)}` sent {what} with values that are not finite."
            )

    def keyed(self, head: Head, found: Mapping[str, Any]) -> Outgoing:
        """The key of a party that is reached by way of the lead; it gets this party's key, and is asked for what was lost."""
        start, peer = self.start, head.sender
        if (
            self.seals is None
            or self.route(peer) == peer
            or start is None
            or start.instances[peer] != head.instance
        ):
            return []
        return self.ask_one(peer) if self.seals.meet(peer, head.instance, found) else []

    def sealed(self, outgoing: Outgoing) -> Outgoing:
        return (
            outgoing
            if self.seals is None
            else sealed(self.seals, outgoing, lambda peer: self.route(peer) != peer)
        )

    def met(self, peer: int, frame: Frame) -> Outgoing:
        """A hello: the agreements are compared, and what the connection before this one lost is asked for."""
        about = codec.about(frame)
        who = f"`{self.terms.name(peer)}`"
        if frame.head.run != self.terms.run:
            theirs = about.get("agreement")
            if isinstance(theirs, dict) and self.said == theirs | {
                "task": self.said.get("task")
            }:
                raise RemoteProtocolError(
                    f"{who} is at another task: {theirs.get('task')!r}, not {self.said.get('task')!r}."
                )
            raise Refused(
                difference(
                    self.said,
                    about.get("agreement"),
                    self.terms.name(self.me),
                    self.terms.name(peer),
                )
            )
        status = Status.of(about, self.terms.name(peer))
        known = self.rendezvous.there.get(peer) if self.rendezvous else None
        newest = (
            known.instance if known else self.start.instances[peer] if self.start else 0
        )
        if status.instance < newest:
            raise Refused(f"another process of {who} was started later.", alone=True)
        self.gone.discard(peer)
        found = self.arrive(peer, status) if self.rendezvous else []
        if self.rendezvous and not any(p == peer for p, _ in found):
            found += self.told(peer)
        return found + self.ask(peer)

    def ask(self, peer: int) -> Outgoing:
        """Ask for what was sent and did not arrive, on every session that this connection serves."""
        if self.start is None:
            return []
        served = [
            p
            for p in self.sessions
            if self.route(p) == peer
            and (self.sessions[p].receives or self.sessions[p].sends)
        ]
        return [m for p in served for m in self.ask_one(p)]

    def ask_one(self, peer: int) -> Outgoing:
        asked = [(peer, self.sessions[peer].sync(again=True))]
        if self.seals is not None and self.route(peer) != peer:
            return [
                (peer, codec.text_of(self.head("key", peer), self.seals.offer(peer))),
                *asked,
            ]
        return asked

    def arrive(self, party: int, status: Status) -> Outgoing:
        """At the lead: a party says what it has."""
        assert self.rendezvous is not None
        if start := self.rendezvous.arrive(party, status):
            return self.opened(start)
        common = self.rendezvous.committed()
        if common is not None and common > self.committed:
            self.committed = common
            return [m for p in self.sessions for m in self.told(p)]
        return []

    def skip(self, parties: Iterable[int]) -> Outgoing:
        """At the lead: go on without clients of which these are, until they come back."""
        assert self.rendezvous is not None
        start = self.rendezvous.skip(parties)
        return self.opened(start) if start else []

    def opened(self, start: Start) -> Outgoing:
        return self.begin(start) + [m for p in self.sessions for m in self.told(p)]

    def told(self, peer: int) -> Outgoing:
        """What the lead tells: the epoch, if one has begun, and what all have on disk, which it may know without one."""
        frames = (
            [codec.text_of(self.head("start", peer), asdict(self.start))]
            if self.start
            else []
        )
        if self.committed >= 0:
            frames.append(
                codec.text_of(self.head("committed", peer), {"step": self.committed})
            )
        return [(peer, f) for f in frames]

    def begin(self, start: Start) -> Outgoing:
        """An epoch begins, unless it has begun already or is meant for another process of this party."""
        if (
            start.epoch <= self.epoch
            or start.instances[self.me] != self.status.instance
        ):
            return []
        self.start, self.committed = start, start.step
        self.inbox.clear()
        if self.seals is not None:
            self.seals.keep(start.instances)
        for peer, session in self.sessions.items():
            session.begin(
                start.epoch,
                start.step,
                (self.status.instance, start.instances[peer]),
                start.away,
            )
        return [m for p in self.direct or () for m in self.ask(p)]

    def send(self, wire: int, step: int, micro: int, arrays: Sequence[Any]) -> Outgoing:
        """Send a value that this party has computed."""
        peer = self.terms.crossings[wire].receiver
        return self.sealed(
            [(peer, self.sessions[peer].send(wire, step, micro, arrays))]
        )

    def take(self, wire: int, step: int, micro: int) -> tuple[np.ndarray, ...] | None:
        """A value that was sent to this party, if it is there; it is given once."""
        frame = self.inbox.pop((wire, step, micro), None)
        return None if frame is None else frame.arrays

    def finished(self, step: int) -> Outgoing:
        """This party has finished a step. Those that it sends nothing to are told so; for others its next value says it."""
        return [
            (p, s.sync(again=False))
            for p, s in self.sessions.items()
            if s.finished(step)
        ]

    def durable(self, steps: Iterable[int]) -> Outgoing:
        """This party has these steps on disk now."""
        self.status = replace(
            self.status, epoch=self.epoch, durable=tuple(sorted(steps))
        )
        if self.rendezvous:
            return self.arrive(self.me, self.status)
        return [
            (
                self.lead,
                codec.text_of(
                    self.head("checkpoint", self.lead), self.about(self.lead)
                ),
            )
        ]

    def about(self, peer: int) -> dict[str, Any]:
        """What this party says of itself; what it has, only the lead needs to know."""
        own, lead = self.status, peer == self.lead
        has = {
            "durable": list(own.durable[-MOST_DURABLE:]) if lead else [],
            "records": own.records if lead else {},
        }
        return {
            "instance": own.instance,
            "epoch": own.epoch,
            "known": self.epoch,
            **has,
        }

    def remind(self) -> Outgoing:
        """Everything that may have been lost on the way, once more: what a party says when it has waited for long."""
        if self.rendezvous:
            again = self.arrive(self.me, self.status)
            again += (
                [m for p in self.sessions for m in self.told(p)] if self.start else []
            )
        else:
            again = [(self.lead, self.hello(self.lead))]
        return again + [m for p in self.direct or () for m in self.ask(p)]

    def bye(self, peer: int, reason: str = "") -> Frame:
        return codec.text_of(self.head("bye", peer), {"reason": reason})

    def refusal(self, peer: int, reason: str) -> Frame:
        return codec.text_of(self.head("refusal", peer), {"reason": reason})
