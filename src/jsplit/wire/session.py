"""What two parties send each other, whatever is repeated, late or lost. No I/O.

A wire is one value that crosses one way. Its frames have positions, counted over the
steps in which it is used, and each is applied once and in order: what is before the next
position is a repetition and is dropped, what is after it leaves a gap and is asked for
again. The sender keeps what it sent until the receiver is known to have it, so that after
any loss the same bytes go out with the same id; and it stops where it would be too many
steps ahead of what the receiver has finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jax.typing import ArrayLike

from jsplit.wire import codec
from jsplit.wire.admission import no_such_step
from jsplit.wire.codec import Frame, Head
from jsplit.wire.errors import LocalProtocolError, RemoteProtocolError
from jsplit.wire.json_types import Json
from jsplit.wire.said import quoted
from jsplit.wire.schedule import Schedule
from jsplit.wire.steps import Steps
from jsplit.wire.terms import Terms, in_words


@dataclass
class Session:
    """One party's side of what it exchanges with one other.

    Args:
        terms: of the run.
        me: this party, by its place.
        peer: the other one.
        cache: whether what was sent is kept; without it no loss can be made good.

    Attributes:
        sends: the wires to the peer that are used in this epoch.
        receives: those from it.
        tables: by wire between the two, the steps in which it is used in this epoch.
        next_send: by wire, the position of the frame that is sent next.
        next_receive: by wire, the position of the frame that is received next.
        acked: by wire, the first position that the peer may lack.
        kept: what was sent and the peer may lack, by wire and position.
        peer_done: how many steps the peer is known to have finished.
        done: how many steps this party has finished.
        told_done: how many of these the peer knows of.
        last: the newest step of which the peer was sent a value.
    """

    terms: Terms
    me: int
    peer: int
    cache: bool = True
    epoch: int = 0
    instances: tuple[int, int] = (0, 0)
    tables: dict[int, Steps] = field(default_factory=dict[int, Steps])
    kept: dict[tuple[int, int], Frame] = field(
        default_factory=dict[tuple[int, int], Frame]
    )
    next_send: dict[int, int] = field(default_factory=dict[int, int])
    next_receive: dict[int, int] = field(default_factory=dict[int, int])
    acked: dict[int, int] = field(default_factory=dict[int, int])
    peer_done: int = 0
    done: int = 0
    told_done: int = 0
    last: int = -1

    def __post_init__(self) -> None:
        self.sends = self.terms.between(self.me, self.peer)
        self.receives = self.terms.between(self.peer, self.me)

    def begin(
        self,
        epoch: int,
        step: int,
        instances: tuple[int, int] = (0, 0),
        schedule: Schedule | None = None,
    ) -> None:
        """Forget everything and go on from a step.

        Args:
            epoch: its number; frames of all others are void from now on.
            step: where all parties go on.
            instances: the processes of this party and of the peer;
                frames of another one are void.
            schedule: see `Terms.scheduled`; by default that of a run in
                which nobody is away.
        """
        if epoch <= self.epoch:
            raise LocalProtocolError(f"epoch {epoch} cannot follow epoch {self.epoch}.")
        self.epoch, self.instances, self.kept = epoch, instances, {}
        out = self.terms.tables(self.me, self.peer, schedule)
        back = self.terms.tables(self.peer, self.me, schedule)
        self.tables = {**out, **back}
        # Among many clients few hand over to one another, and those that do not have
        # nothing to ask each other for.
        self.sends = tuple(w for w, uses in out.items() if uses.begins)
        self.receives = tuple(w for w, uses in back.items() if uses.begins)
        self.next_send = {w: self.position(w, step) for w in self.sends}
        self.next_receive = {w: self.position(w, step) for w in self.receives}
        self.acked = dict(self.next_send)
        self.peer_done = self.done = self.told_done = step
        self.last = step - 1

    def position(self, wire: int, step: int, micro: int = 0) -> int:
        """The place of a frame among all of its wire."""
        return self.tables[wire].count(step) * self.terms.frames(wire) + micro

    def may_send(self, wire: int, step: int) -> bool:
        """Whether the peer has finished all but the last few steps before this one."""
        return self.in_window(wire, step, self.peer_done)

    def in_window(self, wire: int, step: int, done: int) -> bool:
        """Whether a step is in the window of a party that has finished `done`."""
        # Counted in uses: a step in which the wire rests is no reason to
        # wait.
        uses = self.tables[wire]
        return uses.count(step) < uses.count(done) + self.terms.window

    def finished(self, step: int) -> bool:
        """Note that this party has finished a step; whether the peer must be told.

        It must where its window moves by it, and no value of this step
        has said so.
        """
        self.done = step + 1
        if self.last >= step:
            return False
        tables = [self.tables[wire] for wire in self.receives]
        return any(
            uses.count(self.done) > uses.count(self.told_done) for uses in tables
        )

    def send(
        self, wire: int, step: int, micro: int, arrays: Sequence[ArrayLike]
    ) -> Frame:
        """The frame of the next message on a wire, kept until the peer has it.

        Raises:
            LocalProtocolError: if it is not the next one, or its shapes
                are not those agreed upon.
        """
        crossing = self.terms.crossings[wire]
        position = self.position(wire, step, micro)
        # The position alone does not tell: in a step without the wire it is
        # that of the next use.
        is_next = self.next_send.get(wire) == position and self.tables[wire].has(step)
        if not is_next or not self.terms.within(wire, step, micro):
            raise LocalProtocolError(
                f"{crossing.kind} `{crossing.what}` of step {step}, {micro} is not what is "
                "sent next."
            )
        if not self.in_window(wire, step, self.peer_done):
            raise LocalProtocolError(
                f"`{self.terms.name(self.peer)}` is not known to have come near step {step}."
            )
        head = self.head(crossing.kind, step=step, micro=micro, value=wire)
        frame = codec.frame_of(head, arrays)
        if frame.head.shapes != (agreed := self.terms.shapes_of(wire, step, micro)):
            raise LocalProtocolError(
                f"{crossing.kind} `{crossing.what}` is {in_words(frame.head.shapes)}, "
                f"the agreement says {in_words(agreed)}; every step sends these sizes."
            )
        self.next_send[wire] = position + 1
        # A value of a step says that all before it are finished, but for
        # those that may overlap.
        self.last = max(self.last, step)
        self.told_done = max(self.told_done, step - self.terms.lag)
        if self.cache:
            self.kept[wire, position] = frame
        return frame

    def head(self, kind: str, *, step: int = 0, micro: int = 0, value: int = 0) -> Head:
        """The head of a frame from this party to the peer."""
        run, instance = self.terms.run, self.instances[0]
        return Head(
            kind, run, self.epoch, instance, self.me, self.peer, step, micro, value
        )

    def sync(self, *, again: bool) -> Frame:
        """The frame that says what this party has received, by wire, and finished.

        Args:
            again: whether everything else that the peer has sent shall
                be sent again.
        """
        self.told_done = self.done
        received = {str(wire): n for wire, n in self.next_receive.items()}
        said = {"next": received, "done": self.done, "again": again}
        # In the head too, so that one that asks and one that only tells have two ids: of
        # each a newer one may take the place of one that has not gone out yet.
        return codec.text_of(self.head("sync", micro=int(again)), said)

    def current(self, head: Head) -> bool:
        """Whether a frame is of this epoch, and of the peer's process that began it."""
        # Epoch 0 is before any has begun: then nothing counts, whatever a
        # head says.
        return 0 < self.epoch == head.epoch and head.instance == self.instances[1]

    def receive(self, frame: Frame) -> tuple[Frame | None, list[Frame]]:
        """What a frame means whose head has been accepted, by `jsplit.wire.admission`.

        Returns:
            The frame, if it is to be applied now, and the frames to be
            sent now.

        Raises:
            RemoteProtocolError: if the peer may not send it now.
        """
        head, who = frame.head, f"`{self.terms.name(self.peer)}`"
        if not self.current(head):
            return None, []
        if head.kind == "sync":
            return None, self._synced(codec.about(frame))
        if head.kind not in codec.CARRIERS:
            raise RemoteProtocolError(
                f"{who} sent {head.kind} in the place of a value."
            )
        wire = head.value
        # Not for the head to be judged by: who was away, and so which steps
        # use the wire, may have changed while the arrays were on their way.
        if not self.tables[wire].has(head.step):
            raise no_such_step(self.terms, self.peer, head)
        position = self.position(wire, head.step, head.micro)
        expected = self.next_receive[wire]
        # A repetition too says how far the peer is, and that may open the
        # window.
        self.acknowledge(head.step - self.terms.lag)
        if position < expected:
            return None, []
        if not self.in_window(wire, head.step, self.done):
            raise RemoteProtocolError(
                f"{who} is at step {head.step}, beyond the window."
            )
        if position > expected:
            return None, [self.sync(again=True)]
        self.next_receive[wire] = position + 1
        return frame, []

    def acknowledge(self, done: int) -> None:
        """Note that the peer has finished so many steps, and has all sent for them."""
        self.peer_done = max(self.peer_done, done)
        for wire, acked in self.acked.items():
            # What was not sent yet is not had, however far the peer says it
            # is.
            has = min(self.position(wire, self.peer_done), self.next_send[wire])
            self.acked[wire] = max(acked, has)
        self.kept = {at: f for at, f in self.kept.items() if at[1] >= self.acked[at[0]]}

    def _synced(self, said: Mapping[str, Json]) -> list[Frame]:
        """Drop what the peer says it has; give what it lacks, if it asks for it."""
        received, done = self._read_sync(said)
        # What is said may be late, so nothing that was known before is
        # taken back.
        self.acked = {w: max(n, self.acked[w]) for w, n in received.items()}
        self.acknowledge(done)
        if not said.get("again"):
            return []
        lacking = [
            (w, n) for w in self.sends for n in range(self.acked[w], self.next_send[w])
        ]
        for wire, number in lacking:
            if (wire, number) not in self.kept:
                crossing = self.terms.crossings[wire]
                raise LocalProtocolError(
                    f"`{self.terms.name(self.peer)}` asks again for {crossing.kind} "
                    f"`{crossing.what}`, number {number}, which was not kept."
                )
        # By position, not by wire: the peer needs the oldest steps first.
        return [self.kept[at] for at in sorted(lacking, key=lambda at: at[1])]

    def _read_sync(self, said: Mapping[str, Json]) -> tuple[dict[int, int], int]:
        """What a sync says, checked as all that comes from another party."""
        who = f"`{self.terms.name(self.peer)}`"
        done, found = said.get("done"), said.get("next")
        if not isinstance(found, dict) or type(done) is not int:
            raise RemoteProtocolError(f"{who} does not say what it has received.")
        # Of a run that was shortened more steps may be done than it has now.
        if not 0 <= done <= max(self.terms.steps, self.done, self.peer_done):
            raise RemoteProtocolError(
                f"{who} says it has finished {done} steps, there are "
                f"{self.terms.steps}."
            )
        if found.keys() != {str(wire) for wire in self.sends}:
            raise RemoteProtocolError(f"{who} does not say what it has received.")
        received: dict[int, int] = {}
        for wire in self.sends:
            position = found[str(wire)]
            # `type` and not `isinstance`: in JSON `true` would count as the
            # number 1.
            if type(position) is not int or not 0 <= position <= self.next_send[wire]:
                what = self.terms.crossings[wire].what
                raise RemoteProtocolError(
                    f"{who} says it has {quoted(position)} messages of `{what}`."
                )
            received[wire] = position
        return received, done
