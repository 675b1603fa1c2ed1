"""The values that one party exchanges with all others, opened and sealed. No I/O.

What goes to a party without a connection of its own is sealed and goes
by way of the lead; what comes from there is opened before its session
sees it. Who is there and when all begin is for `jsplit.wire.member` to
say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike

from jsplit.wire import codec
from jsplit.wire.admission import accept_between
from jsplit.wire.codec import CodecError, Frame, Head
from jsplit.wire.control import Start
from jsplit.wire.errors import Astray, Refused, RemoteProtocolError
from jsplit.wire.json_types import Json
from jsplit.wire.relay import Outgoing, Seals, can_open, seal_relayed
from jsplit.wire.session import Session
from jsplit.wire.steps import NEVER
from jsplit.wire.terms import Terms

Place = tuple[int, int, int]
"""Which value: wire, step and micro-batch."""


class Traffic:
    """One party's values, to and from all others.

    Args:
        terms: of the run.
        me: this party, by its place.
        lead: the party that passes on what goes to others than
            neighbours.
        neighbours: the parties that this one has a connection with.
        cache: whether what was sent is kept; see `Session`.
        seals: for what goes by way of the lead.

    Attributes:
        sessions: by party.
        inbox: what has come and was not taken yet.
    """

    def __init__(
        self,
        terms: Terms,
        me: int,
        lead: int,
        neighbours: frozenset[int],
        cache: bool,
        seals: Seals | None,
    ):
        self.terms, self.me, self.lead = terms, me, lead
        self.neighbours, self.seals = neighbours, seals
        others = (p for p in range(len(terms.parties)) if p != me)
        self.sessions = {p: Session(terms, me, p, cache) for p in others}
        self.inbox: dict[Place, Frame] = {}
        self.begun = False

    def route(self, peer: int) -> int:
        """Whom a frame for `peer` is given to."""
        return peer if peer in self.neighbours else self.lead

    def begin(self, start: Start) -> Outgoing:
        """Forget what was before an epoch; gives what is asked for now."""
        # In place: those that look into the inbox hold on to it.
        self.inbox.clear()
        self.begun = True
        if self.seals is not None:
            self.seals.keep(start.instances)
        # Who is away has changed with the epoch, and with it which steps
        # use which wire.
        schedule = self.terms.scheduled(start.away)
        step = 0 if self.terms.anew else start.step
        for peer, session in self.sessions.items():
            instances = start.instances[self.me], start.instances[peer]
            session.begin(start.epoch, step, instances, schedule)
        return self.ask_all()

    # What was lost is asked for.

    def ask_all(self) -> Outgoing:
        """Ask for what was sent and did not arrive, on every connection."""
        return [message for peer in self.neighbours for message in self.ask(peer)]

    def ask(self, peer: int) -> Outgoing:
        """Ask for what was lost, on every session that a connection serves."""
        found: Outgoing = []
        if self.begun:
            for other in self._served_by(peer):
                found += self._ask_one(other)
        return found

    def _served_by(self, peer: int) -> Iterator[int]:
        for other, session in self.sessions.items():
            if self.route(other) == peer and (session.receives or session.sends):
                yield other

    def _ask_one(self, peer: int) -> Outgoing:
        session = self.sessions[peer]
        asked = [(peer, session.sync(again=True))]
        if self.seals is None or self.route(peer) == peer:
            return asked
        # The key goes first: with it the peer can open what follows.
        key = codec.text_of(session.head("key"), self.seals.offer(peer))
        return [(peer, key), *self._sealed(asked)]

    # What comes.

    def on_key(self, head: Head, offer: Mapping[str, Json]) -> Outgoing:
        """Take the key of a party behind the lead, and answer until both have both."""
        peer = head.sender
        if self.seals is None or not self.begun or self.route(peer) == peer:
            return []
        if self.sessions[peer].instances[1] != head.instance:
            return []
        try:
            to_answer = self.seals.meet(peer, head.instance, offer)
        except Refused as error:
            # The lead may have written it, so it is named too.
            raise Refused(self._by_way(error), alone=error.alone) from None
        except Astray as error:
            # Both ask again as long as they wait, and each time with a key.
            raise Astray(self._by_way(error)) from None
        # What came before the key could not be opened, so it is asked for
        # again.
        return self._ask_one(peer) if to_answer else []

    def pass_on(self, sender: int, frame: Frame) -> Outgoing:
        """At the lead: what one party sends another, unless that would drop it too."""
        current = self.sessions[sender].current(frame.head)
        return [(frame.head.receiver, frame)] if current else []

    def on_value(self, frame: Frame) -> Outgoing:
        """Take a value, or what the sender says of those that it has received.

        Returns:
            What is to be sent now.

        Raises:
            RemoteProtocolError: if the sender may not send it.
            Astray: likewise, if it came by way of the lead.
            Refused: if it holds what was agreed not to be sent.
        """
        try:
            return self._taken(frame)
        except (CodecError, RemoteProtocolError) as error:
            sender = frame.head.sender
            if self.route(sender) == sender:
                raise
            raise Astray(self._by_way(error)) from None

    def _by_way(self, error: Exception) -> str:
        return f"{str(error).rstrip('.')}; it came by way of `{self.terms.name(self.lead)}`."

    def _taken(self, frame: Frame) -> Outgoing:
        sender, session = frame.head.sender, self.sessions[frame.head.sender]
        # A frame of another epoch is dropped unopened: its key may be
        # forgotten.
        if session.current(frame.head):
            if frame.head.sealed:
                # Without the key there is nothing wrong: the sender is asked, and
                # answers with its key and all that was sent.
                if not can_open(self.seals, frame, self.terms.name(sender)):
                    return self._ask_one(sender)
                opened = self.seals.open(frame)
                if opened is None:
                    return []
                frame = opened
                # Only now is there a head with shapes to judge.
                accept_between(self.terms, self.me, sender, frame.head)
            self._check_finite(frame)
        taken, replies = session.receive(frame)
        if taken is not None:
            head = taken.head
            self.inbox[head.value, head.step, head.micro] = taken
        return self._sealed([(sender, reply) for reply in replies])

    def _check_finite(self, frame: Frame) -> None:
        """Refuse NaN and infinite values, if that was agreed upon."""
        head = frame.head
        # What is handed over may hold them, as the memory of some
        # optimizers does; so may a square of a large norm, and who keeps what
        # comes of it looks at that.
        checked = self.terms.finite and head.kind in ("activation", "cotangent")
        if checked and not codec.finite(frame.arrays):
            what = f"{head.kind} `{self.terms.crossings[head.value].what}`"
            raise Refused(
                f"`{self.terms.name(head.sender)}` sent {what} of step {head.step} with "
                "values that are not finite."
            )

    def _sealed(self, outgoing: Outgoing) -> Outgoing:
        if self.seals is None:
            return outgoing
        return seal_relayed(self.seals, outgoing, lambda peer: self.route(peer) != peer)

    # What the run asks for.

    def sender(self, wire: int, step: int) -> int:
        """Who sends a value to this party in a step, of those that may."""
        senders = [s for s in self.terms.crossings[wire].senders if s != self.me]
        if len(senders) == 1:
            return senders[0]
        # Of what is handed over it depends on who was away.
        tables = {s: self.sessions[s].tables.get(wire, NEVER) for s in senders}
        return next((s for s, uses in tables.items() if uses.has(step)), senders[0])

    def send(
        self, wire: int, step: int, micro: int, arrays: Sequence[ArrayLike]
    ) -> Outgoing:
        """Send a value that this party has computed; see `Session.send`."""
        peer = self.terms.crossings[wire].receiver
        frame = self.sessions[peer].send(wire, step, micro, arrays)
        return self._sealed([(peer, frame)])

    def take(self, wire: int, step: int, micro: int) -> tuple[np.ndarray, ...] | None:
        """A value that was sent to this party, if it is there; it is given once."""
        frame = self.inbox.pop((wire, step, micro), None)
        return None if frame is None else frame.arrays

    def finished(self, step: int) -> Outgoing:
        """Note that this party has finished a step, and tell who learns it by no value."""
        sessions = self.sessions.items()
        return self._sealed(
            [(p, s.sync(again=False)) for p, s in sessions if s.finished(step)]
        )
