"""What two parties may send each other, and what is done with what comes twice, late or not at all. No I/O.

A wire is one value that crosses one way. Its frames have positions, counted over the steps in which it is used, and each is
applied once and in order: what is before the next position is a repetition and is dropped, what is after it leaves a gap
and is asked for again. The sender keeps what it sent until the receiver is known to have it, so that after any loss the
same bytes go out with the same id; and it stops where it would be too many steps ahead of what the receiver has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsplit.wire import codec
from jsplit.wire.codec import Frame, Head, Shapes


class LocalProtocolError(RuntimeError):
    """This party tried what is not its turn."""


class RemoteProtocolError(RuntimeError):
    """Another party did what it may not do."""


@dataclass(frozen=True)
class Crossing:
    """One value that crosses one way: its kind, its name, and both parties by their place in the agreement."""

    kind: str
    what: str
    sender: int
    receiver: int


Away = tuple[tuple[int, tuple[int, ...]], ...]
"""From which step on who was away, where a run goes on without some."""


@dataclass(frozen=True)
class Terms:
    """All that the protocol knows of an agreement.

    Attributes:
        run: hash of the agreement.
        parties: names; their places are what heads say.
        crossings: every wire; their places are what heads say.
        shapes: `shapes(place of the wire, step)`: of the arrays of each frame.
        steps, micros: how many steps the run has, and micro-batches a step.
        window: how many uses of a wire may be sent beyond the steps that the receiver has finished.
        clients: by client, its parties by their places, where clients take turns and those that are missing are passed over.
        uses: `uses(place of the wire, step, away)`: in how many of the steps before this one it is used, if these were away; by
            default in all.
        lag: by how many steps a party may be ahead of what it has received.
        finite: whether activations and cotangents must be finite.
    """

    run: bytes
    parties: tuple[str, ...]
    crossings: tuple[Crossing, ...]
    shapes: Callable[[int, int], Shapes]
    steps: int
    micros: int = 1
    window: int = 2
    clients: tuple[tuple[int, ...], ...] = ()
    uses: Callable[[int, int, Away], int] = lambda wire, step, away: step
    lag: int = 0
    finite: bool = True

    def parts(self, wire: int) -> int:
        """How many frames a wire has in a step that uses it."""
        return 1 if self.crossings[wire].kind == "weights" else self.micros

    def within(self, wire: int, step: int, micro: int = 0) -> bool:
        """Whether there is such a step and micro-batch; weights may be handed over after the last step."""
        return step < self.steps + (
            self.crossings[wire].kind == "weights"
        ) and micro < self.parts(wire)

    def used(self, wire: int, step: int, away: Away) -> bool:
        """Whether a wire is used in a step."""
        return self.uses(wire, step, away) < self.uses(wire, step + 1, away)

    def between(self, sender: int, receiver: int) -> tuple[int, ...]:
        """The wires that go from one party to another."""
        return tuple(
            i
            for i, c in enumerate(self.crossings)
            if (c.sender, c.receiver) == (sender, receiver)
        )

    def name(self, place: int) -> str:
        return self.parties[place] if place < len(self.parties) else f"party {place}"


@dataclass
class Session:
    """One party's side of what it exchanges with one other.

    Args:
        terms: of the run.
        me, peer: both parties, by their places.
        cache: whether what was sent is kept; without it no loss can be made good.

    Attributes:
        due, next: by wire, the position of what is sent, and of what is received next; had: of what the peer may lack.
        done: how many steps the peer is known to have finished; mine: this party; told: as far as the peer knows.
        last: the newest step of which the peer was sent a value.
    """

    terms: Terms
    me: int
    peer: int
    cache: bool = True
    epoch: int = 0
    instances: tuple[int, int] = (0, 0)
    away: Away = ()
    kept: dict[tuple[int, int], Frame] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)
    had: dict[int, int] = field(default_factory=dict)
    done: int = 0
    mine: int = 0
    told: int = 0
    last: int = -1

    def __post_init__(self):
        self.sends = self.terms.between(self.me, self.peer)
        self.receives = self.terms.between(self.peer, self.me)

    def begin(
        self,
        epoch: int,
        step: int,
        instances: tuple[int, int] = (0, 0),
        away: Away = (),
    ) -> None:
        """Forget everything and go on from `step`; frames of other epochs, or other instances of the peer, are void."""
        if epoch <= self.epoch:
            raise LocalProtocolError(f"epoch {epoch} cannot follow epoch {self.epoch}.")
        self.epoch, self.instances, self.away, self.kept = epoch, instances, away, {}
        self.due, self.next = (
            {w: self.position(w, step) for w in own}
            for own in (self.sends, self.receives)
        )
        self.had, self.done, self.mine, self.told, self.last = (
            dict(self.due),
            step,
            step,
            step,
            step - 1,
        )

    def position(self, wire: int, step: int, micro: int = 0) -> int:
        """The place of a frame among all of its wire."""
        return self.uses(wire, step) * self.terms.parts(wire) + micro

    def uses(self, wire: int, step: int) -> int:
        return self.terms.uses(wire, step, self.away)

    def may_send(self, wire: int, step: int) -> bool:
        """Whether the window is open: the peer is known to have finished all but the last few steps before it."""
        return self.near(wire, step, self.done)

    def near(self, wire: int, step: int, done: int) -> bool:
        """Whether a step is in the window of who has finished so many."""
        return self.uses(wire, step) < self.uses(wire, done) + self.terms.window

    def finished(self, step: int) -> bool:
        """This party has finished a step. Gives whether the peer must be told: its window moves, and no value says so."""
        self.mine = step + 1
        return self.last < step and any(
            self.uses(w, self.mine) > self.uses(w, self.told) for w in self.receives
        )

    def send(self, wire: int, step: int, micro: int, arrays: Sequence[Any]) -> Frame:
        """The frame of the next message on a wire, kept until the peer has it.

        Raises:
            LocalProtocolError: if it is not the next one, or its shapes are not those agreed upon.
        """
        position, crossing = (
            self.position(wire, step, micro),
            self.terms.crossings[wire],
        )
        there = self.terms.within(wire, step, micro) and self.terms.used(
            wire, step, self.away
        )
        if self.due.get(wire) != position or not there:
            raise LocalProtocolError(
                f"{crossing.kind} `{crossing.what}` of step {step}, {micro} is not what is sent next."
            )
        if not self.may_send(wire, step):
            raise LocalProtocolError(
                f"`{self.terms.name(self.peer)}` is not known to have come near step {step}."
            )
        frame = codec.frame_of(
            self.head(crossing.kind, step=step, micro=micro, value=wire), arrays
        )
        if frame.head.shapes != self.terms.shapes(wire, step):
            raise LocalProtocolError(
                f"{crossing.kind} `{crossing.what}` is {_said(frame.head.shapes)}, "
                f"the agreement says {_said(self.terms.shapes(wire, step))}."
            )
        self.due[wire] = position + 1
        self.last, self.told = (
            max(self.last, step),
            max(self.told, step - self.terms.lag),
        )
        if self.cache:
            self.kept[wire, position] = frame
        return frame

    def head(self, kind: str, *, step: int = 0, micro: int = 0, value: int = 0) -> Head:
        ends = self.me, self.peer
        return Head(
            kind,
            self.terms.run,
            self.epoch,
            self.instances[0],
            *ends,
            step,
            micro,
            value,
        )

    def sync(self, *, again: bool) -> Frame:
        """What this party has received, by wire, and finished; with `again`, whatever else was sent shall be sent again."""
        self.told = self.mine
        received = {str(w): n for w, n in self.next.items()}
        return codec.text_of(
            self.head("sync"), {"next": received, "done": self.mine, "again": again}
        )

    def accept(self, head: Head) -> None:
        """Refuse, before anything is allocated for it, what the peer may not send.

        Raises:
            RemoteProtocolError: saying what came, and what the agreement says.
        """
        who = f"`{self.terms.name(self.peer)}`"
        if (head.sender, head.receiver) != (self.peer, self.me):
            raise RemoteProtocolError(
                f"{who} sent a frame from `{self.terms.name(head.sender)}` to "
                f"`{self.terms.name(head.receiver)}`."
            )
        if head.run != self.terms.run:
            raise RemoteProtocolError(f"{who} sent a frame of another run.")
        if head.kind not in codec.CARRIERS:
            return
        wire = head.value
        if wire not in self.receives or self.terms.crossings[wire].kind != head.kind:
            raise RemoteProtocolError(
                f"{who} may not send {head.kind} {wire} to `{self.terms.name(self.me)}`."
            )
        there = self.terms.within(wire, head.step, head.micro)
        if (
            not there
            or self.current(head)
            and not self.terms.used(wire, head.step, self.away)
        ):
            what = f"{head.kind} `{self.terms.crossings[wire].what}` of step {head.step}, {head.micro}"
            raise RemoteProtocolError(
                f"{who} sent {what}, which there is not in a run of {self.terms.steps} steps."
            )
        if not head.sealed and head.shapes != (
            agreed := self.terms.shapes(wire, head.step)
        ):
            what = f"{head.kind} `{self.terms.crossings[wire].what}`"
            raise RemoteProtocolError(
                f"{who} sent {what} as {_said(head.shapes)}, the agreement says {_said(agreed)}."
            )

    def receive(self, frame: Frame) -> tuple[Frame | None, list[Frame]]:
        """What a frame means: a message to be applied, if it is the next one of its wire, and the frames to be sent now.

        Raises:
            RemoteProtocolError: if the peer may not send it.
        """
        head = frame.head
        self.accept(head)
        if not self.current(head):
            return None, []
        if head.kind == "sync":
            return None, self.synced(codec.about(frame))
        if head.kind not in codec.CARRIERS:
            raise RemoteProtocolError(
                f"`{self.terms.name(self.peer)}` sent {head.kind} in the place of a value."
            )
        position, expected = (
            self.position(head.value, head.step, head.micro),
            self.next[head.value],
        )
        self.has(head.step - self.terms.lag)
        if position < expected:
            return None, []
        if not self.near(head.value, head.step, self.mine):
            raise RemoteProtocolError(
                f"`{self.terms.name(self.peer)}` is at step {head.step}, beyond the window."
            )
        if position > expected:
            return None, [self.sync(again=True)]
        self.next[head.value] = position + 1
        return frame, []

    def current(self, head: Head) -> bool:
        """Whether a frame is of this epoch, and of the instance of the peer that began it."""
        return 0 < self.epoch == head.epoch and head.instance == self.instances[1]

    def has(self, done: int) -> None:
        """The peer has finished so many steps, so it has all that was sent for them."""
        self.done = max(self.done, done)
        for wire, position in self.had.items():
            self.had[wire] = max(
                position, min(self.position(wire, self.done), self.due[wire])
            )
        self.drop()

    def drop(self) -> None:
        """Forget what the peer has."""
        self.kept = {
            at: frame for at, frame in self.kept.items() if at[1] >= self.had[at[0]]
        }

    def synced(self, said: Mapping[str, Any]) -> list[Frame]:
        """Drop what the peer says it has; give what it lacks, if it asks for it."""
        found, done = said.get("next"), said.get("done")
        if (
            not isinstance(found, dict)
            or found.keys() != {str(w) for w in self.sends}
            or type(done) is not int
        ):
            raise RemoteProtocolError(
                f"`{self.terms.name(self.peer)}` does not say what it has received."
            )
        has = {w: found[str(w)] for w in self.sends}
        for wire, position in has.items():
            if type(position) is not int or not 0 <= position <= self.due[wire]:
                what = self.terms.crossings[wire].what
                raise RemoteProtocolError(
                    f"`{self.terms.name(self.peer)}` says it has {position!r} messages of `{what}`."
                )
        self.had = {
            w: max(n, self.had[w]) for w, n in has.items()
        }  # what is said may be late
        self.has(min(done, self.terms.steps))
        if not said.get("again"):
            return []
        lacking = [(w, p) for w in self.sends for p in range(self.had[w], self.due[w])]
        if lost := [at for at in lacking if at not in self.kept]:
            crossing, number = self.terms.crossings[lost[0][0]], lost[0][1]
            raise LocalProtocolError(
                f"`{self.terms.name(self.peer)}` asks again for {crossing.kind} `{crossing.what}`, number {number}, "
                "which was not kept."
            )
        return [self.kept[at] for at in sorted(lacking, key=lambda at: at[1])]


def _said(shapes: Shapes) -> str:
    """Dtypes and shapes in words."""
    return " and ".join(f"{d}[{','.join(map(str, s))}]" for d, s in shapes) or "nothing"
