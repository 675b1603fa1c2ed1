"""One party's side of the protocol: hellos, epochs, checkpoints, goodbyes. No I/O.

Every party tells the lead which checkpoints it has on disk. Once all are there, the lead
opens an epoch: all go on from the newest step that all have. A party that comes back as
another process opens the next epoch, so all roll back; a connection that comes back opens
none, what was lost on it is sent again. What control frames say is a state, never a
change, so that it does not matter how often or in which order they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from jsplit.wire import codec
from jsplit.wire.admission import Admission
from jsplit.wire.claims import check_committed, check_start, check_status
from jsplit.wire.codec import Frame, Head
from jsplit.wire.control import Start, Status, number, status_words
from jsplit.wire.handshake import check_newer, check_same_run, refusal_words, refused_by
from jsplit.wire.relay import Outgoing, Seals
from jsplit.wire.rendezvous import Rendezvous
from jsplit.wire.rota import Away
from jsplit.wire.said import printable
from jsplit.wire.signs import Sign, signs_of, words_of
from jsplit.wire.terms import Terms
from jsplit.wire.traffic import Traffic
from jsplit.wire.versions import Versions, versions_of


@dataclass
class Member:
    """One party: its sessions with all others, and what it knows of the run.

    Args:
        terms: of the run.
        me: this party, by its place.
        lead: the party that opens epochs.
        status: of this process, as it starts.
        said: the agreement, which a hello carries so that the other side can compare.
        direct: the parties that this one has a connection with; by
            default all. Frames for others go by way of the lead.
        cache: whether what was sent is kept; see `Session`.
        seals: seal what goes by way of the lead, and open what comes so.
        away: at the lead, which clients were passed over before this process began.
        versions: of what this process computes with.

    Attributes:
        start: the epoch that has begun.
        committed: the newest step that all parties have on disk, -1 if none is known.
        gone: who has said goodbye, and has not come again.
        done: who has ever said goodbye because it knows that all is done.
        signs: by party, what it was at when it last said so.
        versions_of: by party, what its process computes with.
    """

    terms: Terms
    me: int
    lead: int
    status: Status
    said: Mapping[str, object] = field(default_factory=dict[str, object])
    direct: frozenset[int] | None = None
    cache: bool = True
    seals: Seals | None = None
    away: Away = ()
    versions: Versions = field(default_factory=dict[str, str])
    start: Start | None = None
    committed: int = -1
    gone: set[int] = field(default_factory=set[int])
    done: set[int] = field(default_factory=set[int])
    signs: dict[int, Sign] = field(default_factory=dict[int, Sign])
    versions_of: dict[int, Versions] = field(default_factory=dict[int, Versions])

    def __post_init__(self) -> None:
        others = frozenset(p for p in range(len(self.terms.parties)) if p != self.me)
        neighbours = others if self.direct is None else self.direct
        self.traffic = Traffic(
            self.terms, self.me, self.lead, neighbours, self.cache, self.seals
        )
        # Bound here and not called through methods of this class: they are
        # what every frame passes.
        self.accept = Admission(self.terms, self.me, self.lead).accept
        self.route, self.send = self.traffic.route, self.traffic.send
        self.take, self.finished = self.traffic.take, self.traffic.finished
        self.sessions, self.inbox = self.traffic.sessions, self.traffic.inbox
        self.rendezvous: Rendezvous | None = None
        if self.me == self.lead:
            self.rendezvous = Rendezvous(self.terms, self.away)
            self._arrive(self.me, self.status)

    @property
    def epoch(self) -> int:
        """The newest epoch that this party has begun, in this process or before."""
        return self.start.epoch if self.start else self.status.epoch

    # What this party says.

    def head(self, kind: str, peer: int) -> Head:
        """The head of a control frame for `peer`."""
        run, instance = self.terms.run, self.status.instance
        return Head(kind, run, self.epoch, instance, self.me, peer)

    def _text(self, kind: str, peer: int, words: Mapping[str, object]) -> Frame:
        return codec.text_of(self.head(kind, peer), words)

    def hello(self, peer: int) -> Frame:
        """What is said first on every connection."""
        about = {"agreement": self.said, "versions": self.versions}
        return self._text("hello", peer, self.status_for(peer) | about)

    def status_for(self, peer: int) -> dict[str, object]:
        """What this party says of itself."""
        return status_words(self.status, self.epoch, to_lead=peer == self.lead)

    def bye(self, peer: int, reason: str = "") -> Frame:
        """What is said last, with a reason unless it is that all is done."""
        return self._text("bye", peer, {"reason": printable(reason)})

    def sign(self, own: Sign) -> Outgoing:
        """What this party is at; the lead says of all others what it has heard of them."""
        if self.rendezvous is None:
            words = words_of({self.me: own})
            return [(self.lead, self._text("sign", self.lead, words))]
        words = words_of({**self.signs, self.me: own})
        return [(peer, self._text("sign", peer, words)) for peer in self.sessions]

    def refusal(self, peer: int, reason: str | Exception) -> Frame:
        """What ends the other side too."""
        return self._text("refusal", peer, refusal_words(reason))

    def announcements(self, peer: int) -> Outgoing:
        """What the lead tells: the epoch that has begun, and what all have on disk."""
        frames: list[Frame] = []
        if self.start:
            frames.append(self._text("start", peer, asdict(self.start)))
        # The lead may know this without an epoch: of a run that was over
        # before its process began.
        if self.committed >= 0:
            frames.append(self._text("committed", peer, {"step": self.committed}))
        return [(peer, frame) for frame in frames]

    def _announce(self) -> Outgoing:
        return [m for peer in self.sessions for m in self.announcements(peer)]

    def resend(self) -> Outgoing:
        """All that may have been lost, once more: for when a party has waited for long."""
        if self.rendezvous:
            again = self._arrive(self.me, self.status)
            again += self._announce() if self.start else []
        else:
            again = [(self.lead, self.hello(self.lead))]
        return again + self.traffic.ask_all()

    # What comes.

    def receive(self, peer: int, frame: Frame) -> Outgoing:
        """Take a frame whose head was accepted, by `accept(peer, head)`.

        Args:
            peer: over whose connection it came.
            frame: what came.

        Returns:
            What is to be sent now.

        Raises:
            RemoteProtocolError: if the peer may not send it.
            Refused: if the two cannot work together.
        """
        head = frame.head
        if head.receiver != self.me:
            return self.traffic.pass_on(peer, frame)
        match head.kind:
            case "hello":
                return self.on_hello(peer, frame)
            case "start":
                return self._on_start(frame)
            case "checkpoint":
                return self._on_checkpoint(peer, frame)
            case "committed":
                # Of this epoch; or the run is over, and the lead has begun
                # none since it started.
                if head.epoch in (0, self.epoch):
                    self._on_committed(number(codec.about(frame), "step"))
                return []
            case "bye":
                self.gone.add(peer)
                if not codec.about(frame).get("reason"):
                    self.done.add(peer)
                return []
            case "refusal":
                raise refused_by(self.terms.name(peer), codec.about(frame))
            case "sign":
                said = codec.about(frame)
                self.signs |= signs_of(said, self.terms, peer, self.lead)
                return []
            case "key":
                return self.traffic.on_key(head, codec.about(frame))
            case _:
                return self.traffic.on_value(frame)

    def on_hello(self, peer: int, frame: Frame) -> Outgoing:
        """Compare agreements with who says hello, and ask for what was lost before."""
        said, who = codec.about(frame), self.terms.name(peer)
        check_same_run(self.terms, self.said, self.me, frame, said.get("agreement"))
        status, versions = Status.of(said, who), versions_of(said, who)
        check_status(who, frame.head, status)
        check_newer(who, status.instance, self._instance_of(peer))
        self.gone.discard(peer)
        self.versions_of[peer] = versions
        found = self._arrive(peer, status) if self.rendezvous else []
        # If its arrival has begun an epoch, it was told so with all others.
        if self.rendezvous and not any(p == peer for p, _ in found):
            found += self.announcements(peer)
        return found + self.traffic.ask(peer)

    def _instance_of(self, peer: int) -> int:
        """The newest process of a party that is known, 0 if none is."""
        known = self.rendezvous.there.get(peer) if self.rendezvous else None
        if known:
            return known.instance
        return self.start.instances[peer] if self.start else 0

    def _on_checkpoint(self, peer: int, frame: Frame) -> Outgoing:
        who = self.terms.name(peer)
        status = Status.of(codec.about(frame), who)
        check_status(who, frame.head, status)
        known = self.rendezvous.there.get(peer) if self.rendezvous else None
        # Only a hello makes a process known: of an older one this may still
        # be under way.
        if known is None or known.instance != status.instance:
            return []
        return self._arrive(peer, status)

    # What the lead says.

    def _on_start(self, frame: Frame) -> Outgoing:
        start = Start.of(codec.about(frame), self.terms)
        if self._is_next(start):
            instance = frame.head.instance
            known = self.status, self.start, start, instance
            check_start(self.terms, self.me, self.lead, *known)
        return self._begin(start)

    def _on_committed(self, step: int) -> None:
        # What is not newer may be deleted already, and changes nothing.
        if step > self.committed:
            check_committed(self.terms, self.lead, self.me, self.status, step)
            self.committed = step

    # Epochs.

    def _arrive(self, party: int, status: Status) -> Outgoing:
        """At the lead: take note of what a party has."""
        assert self.rendezvous is not None
        if start := self.rendezvous.arrive(party, status):
            return self._open(start)
        common = self.rendezvous.committed()
        if common is not None and common > self.committed:
            self.committed = common
            return self._announce()
        return []

    def skip(self, parties: Iterable[int]) -> Outgoing:
        """At the lead: go on without the clients that these parties are of."""
        assert self.rendezvous is not None
        start = self.rendezvous.skip(parties)
        return self._open(start) if start else []

    def _open(self, start: Start) -> Outgoing:
        return self._begin(start) + self._announce()

    def _begin(self, start: Start) -> Outgoing:
        """Begin an epoch, unless it has begun or is meant for another process."""
        if not self._is_next(start):
            return []
        self.start, self.committed = start, start.step
        return self.traffic.begin(start)

    def _is_next(self, start: Start) -> bool:
        own = self.status.instance
        return start.epoch > self.epoch and start.instances[self.me] == own

    def ready(self) -> Outgoing:
        """Note that this party can begin, and tell the lead."""
        self.status = replace(self.status, ready=True)
        return self.durable(self.status.durable)

    def durable(self, steps: Iterable[int]) -> Outgoing:
        """Note that this party has these steps on disk, and tell the lead."""
        durable = tuple(sorted(steps))
        self.status = replace(self.status, epoch=self.epoch, durable=durable)
        if self.rendezvous:
            return self._arrive(self.me, self.status)
        return [
            (self.lead, self._text("checkpoint", self.lead, self.status_for(self.lead)))
        ]
