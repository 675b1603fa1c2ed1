"""What a party knows of its connections, and why it ends: shared by its threads.

The threads are elsewhere: those that read in `reader`, those that dial
in `connections`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from jsplit.party.connection.comebacks import Comebacks
from jsplit.party.connection.newcomers import Newcomers
from jsplit.party.connection.outbox import Outbox
from jsplit.party.connection.passing import SPARE, Room, room_of
from jsplit.party.connection.strays import Strays
from jsplit.party.connection.vigil import Vigil
from jsplit.party.contract.agreement import Agreement
from jsplit.wire.channel import Channel
from jsplit.wire.member import Member, Outgoing
from jsplit.wire.said import printable
from jsplit.wire.versions import differing

_log = logging.getLogger("jsplit.party")
_SPARE = 64
"""Frames that may be due on a connection beyond those that carry values.

What control frames say is soon said.
"""


class Peers:
    """One party's connections, by the peer reached by each, and the verdict on the run.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        member: its side of the protocol.

    Attributes:
        changed: held by whoever touches `member` or one of these; told
            when something has come.
        outboxes: by peer, the connection by which it is reached.
        all_outboxes: these, those that end, and those that have not said
            who they are.
        newcomers: the connections that have not said hello.
        comebacks: how often others come back as another process.
        strays: what came by way of the lead and could not be taken.
        rooms: by sender and receiver, what may be due at this party of what it passes on.
        lost: by peer, since when there is no connection.
        trouble: by party, what was wrong with its connection last, or
            why it left; nothing once it is there again.
        denied: the parties that have not let this one in.
        lasting: by party, what another connection does not mend: why one of both does not
            take the other. Who was turned away is gone the next time, and that says less.
        seen: the peers that have ever been here.
        fatal: why this party cannot go on.
        verdict: what all are told, if it is over for all.
        told: by peer, the connection on which it was told so.
        versions: by peer, those that were compared with one's own.
        closing: set when this party leaves.
        vigil: what others are at, and how long they are waited for.
    """

    def __init__(self, agreed: Agreement, party: str, member: Member):
        self.agreed, self.party, self.member = agreed, party, member
        self.names = agreed.parties
        self.patience = float(agreed.patience)
        terms = member.terms
        frames = [terms.frames(wire) for wire in range(len(terms.crossings))]
        self.most_due = _SPARE + terms.window * sum(frames)
        # Nor may those whose frames are passed on fill a connection of another.
        self.most_due += SPARE * len(terms.parties)
        self.rooms: dict[tuple[int, int], Room] = {}

        self.changed = threading.Condition()
        self.outboxes: dict[int, Outbox] = {}
        self.all_outboxes: set[Outbox] = set()
        # Whoever never comes counts as lost from the beginning.
        self.lost = dict.fromkeys(member.sessions, time.monotonic())
        self.trouble: dict[str, str] = {}
        self.strays = Strays(party, self.names, self.trouble)
        self.denied: set[str] = set()
        self.lasting: dict[str, str] = {}
        self.seen: set[int] = set()
        self.fatal: Exception | None = None
        self.verdict: Exception | None = None
        self.told: dict[int, Outbox] = {}
        self.versions: dict[int, Mapping[str, str]] = {}
        self.closing = threading.Event()
        self.newcomers = Newcomers(self.changed, self.closing)
        self.comebacks = Comebacks()
        # By as much as a window for each party on the longest way between two.
        ahead = terms.window * len(member.sessions)
        self.vigil = Vigil(member.sessions, self.patience, float(agreed.stall), ahead)

    def new_outbox(self, channel: Channel) -> Outbox:
        """A new connection, with the thread that writes to it."""
        return Outbox(
            channel,
            self.patience,
            self.most_due,
            lambda error: self.fail(error, tell=False),
        )

    def post(self, outgoing: Outgoing) -> None:
        """Hand frames to the connections they go by."""
        for peer, frame in outgoing:
            # Without a connection a frame is dropped: it is kept, and asked
            # for on the next one.
            if outbox := self.outboxes.get(self.member.route(peer)):
                outbox.put(frame, self._room(frame.head.sender, peer))

    def _room(self, sender: int, receiver: int) -> Room | None:
        """What a party may have due at this one that another shall get; none of its own."""
        if sender == self.member.me:
            return None
        if (sender, receiver) not in self.rooms:
            self.rooms[sender, receiver] = room_of(self.member.terms, sender, receiver)
        return self.rooms[sender, receiver]

    def note(self, peer: int, trouble: str, *, denied: bool = False) -> None:
        """Note what was wrong with a connection, and whether this party is let in."""
        party = self.names[peer]
        # A transport of a user's own may hand on whatever the other end has said.
        trouble = printable(trouble)
        with self.changed:
            # Until it is let in: who turns it away may be gone when it tries again.
            if denied:
                self.denied.add(party)
                self.lasting[party] = trouble
            # Who is gone has said why it left, which is more than that its
            # connection is lost.
            if peer in self.member.gone or self.trouble.get(party) == trouble:
                return
            self.trouble[party] = trouble
            if not self.closing.is_set():
                _log.info("%s: %s", self.party, trouble)

    def met(self, peer: int) -> None:
        """Note that a peer has said hello, and whether it computes with the same."""
        self.seen.add(peer)
        self.lost.pop(peer, None)
        self.trouble.pop(self.names[peer], None)
        self.denied.discard(self.names[peer])
        self.lasting.pop(self.names[peer], None)
        self.vigil.greeted(peer)
        theirs = self.member.versions_of[peer]
        # Once for each process, not for each connection of it.
        if self.versions.get(peer) != theirs:
            self.versions[peer] = theirs
            there = self.names[peer]
            if words := differing(self.member.versions, theirs, self.party, there):
                _log.warning("%s: versions differ: %s", self.party, words)

    def fail(self, error: Exception, *, tell: bool) -> None:
        """Let the run be over for this party, or with `tell` for all."""
        with self.changed:
            self.fatal = self.fatal or error
            if tell and self.verdict is None:
                self.verdict = error
                for peer, outbox in self.outboxes.items():
                    self.tell(peer, outbox, self.verdict)
            self.changed.notify_all()

    def tell(self, peer: int, outbox: Outbox, reason: Exception) -> None:
        """Tell a peer that it is over for all."""
        outbox.put(self.member.refusal(peer, reason))
        self.told[peer] = outbox

    def all_told(self) -> bool:
        """Whether all that have been here have left, or were told that it is over."""
        here = self.seen - self.member.gone
        # Told is who was sent it on a connection that lasted until it had
        # gone out.
        return all(p in self.told and self.told[p].idle for p in here)
