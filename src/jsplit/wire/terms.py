"""All that the protocol knows of an agreement, as values.

A party makes `Terms` once for a run; nothing in it is called back into
the party.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jsplit.wire.codec import Shapes
from jsplit.wire.rota import Away
from jsplit.wire.schedule import Schedule
from jsplit.wire.steps import EVERY_STEP, Steps

_FEW = 8
"""So many arrays are said in words."""


@dataclass(frozen=True)
class Crossing:
    """One value that crosses one way.

    Attributes:
        kind: `"activation"`, `"cotangent"`, `"scalar"` for numbers that
            all add up, or `"weights"` for what is handed over.
        what: its name.
        senders: the parties that may send it, by their places in the
            agreement: one, or of what is handed over whoever plays the
            role. It would take a crossing for each two of many clients
            to have one sender for each.
        receiver: the party that receives it, likewise.
    """

    kind: str
    what: str
    senders: tuple[int, ...]
    receiver: int


@dataclass(frozen=True)
class Terms:
    """What a session must know to tell what comes next, and what may not come.

    Attributes:
        run: hash of the agreement, 32 bytes.
        parties: names; their places are what heads say.
        crossings: every wire; their places are what heads say.
        shapes: by crossing, dtypes and shapes of the arrays of each
            frame.
        steps: how many the run has.
        micros: micro-batches a step.
        window: how many uses of a wire may be sent beyond the steps
            that the receiver has finished.
        clients: by client, its parties by their places, where clients
            take turns and those that are missing are passed over.
        schedule: in which steps each crossing is used; without one, in
            every step.
        lag: by how many steps a party may be ahead of what it has
            received.
        finite: whether activations and cotangents must be finite.
        anew: whether steps are counted from 0 in every epoch, whatever
            checkpoint all begin with, as those of inference are.
        last_shapes: by crossing, the shapes of the last step, if its
            batch is smaller than the others.
        holders: by client, the parties that may have records of it, by
            their places; with none, anybody may speak of any client.
        counts: by crossing, how many frames it has in a step that uses
            it, where that is not said by its kind.
        end_shapes: likewise the shapes of the last of these frames.
    """

    run: bytes
    parties: tuple[str, ...]
    crossings: tuple[Crossing, ...]
    shapes: tuple[Shapes, ...]
    steps: int
    micros: int = 1
    window: int = 2
    clients: tuple[tuple[int, ...], ...] = ()
    schedule: Schedule | None = None
    lag: int = 0
    finite: bool = True
    anew: bool = False
    last_shapes: tuple[Shapes, ...] = ()
    holders: Mapping[str, frozenset[int]] = field(
        default_factory=dict[str, frozenset[int]]
    )
    counts: tuple[int, ...] = ()
    end_shapes: tuple[Shapes, ...] = ()

    def shapes_of(self, wire: int, step: int, micro: int = 0) -> Shapes:
        """Dtypes and shapes of the arrays of a frame of a wire in a step."""
        # Nor do they fill the last batch of a validation within a step.
        if self.end_shapes and micro == self.counts[wire] - 1:
            return self.end_shapes[wire]
        # Records rarely fill the last batch of an evaluation; in training
        # all are full.
        if self.last_shapes and step == self.steps - 1:
            return self.last_shapes[wire]
        return self.shapes[wire]

    def frames(self, wire: int) -> int:
        """How many frames a wire has in a step that uses it."""
        if self.counts:
            return self.counts[wire]
        # What is handed over crosses before the first micro-batch, once, and what all
        # add up after the last.
        once = self.crossings[wire].kind in ("weights", "scalar")
        return 1 if once else self.micros

    def within(self, wire: int, step: int, micro: int = 0) -> bool:
        """Whether the run has such a step and micro-batch."""
        # Weights may be handed over once more, after the last step.
        steps = self.steps + (self.crossings[wire].kind == "weights")
        return step < steps and micro < self.frames(wire)

    def scheduled(self, away: Away) -> Schedule | None:
        """The schedule of a run in which these clients were away."""
        return None if self.schedule is None else self.schedule.excluding(away)

    def tables(
        self, sender: int, receiver: int, schedule: Schedule | None = None
    ) -> dict[int, Steps]:
        """By wire from one party to another, the steps in which it is used.

        Args:
            sender: by its place.
            receiver: likewise.
            schedule: as `scheduled` gives it; by default nobody is away.
        """
        schedule = schedule or self.schedule
        wires = self.between(sender, receiver)
        if schedule is None:
            # One object for all wires: a run without turns keeps no table
            # of its own.
            return dict.fromkeys(wires, EVERY_STEP)
        return {wire: schedule.steps_of(wire, sender) for wire in wires}

    def crosses(self, wire: int, sender: int, receiver: int) -> bool:
        """Whether there is such a wire, from one of these parties to the other."""
        # The place came in a head, so it may be any number of eight bytes.
        if not wire < len(self.crossings):
            return False
        crossing = self.crossings[wire]
        # A party has nothing to hand over to itself.
        given = sender != receiver and sender in crossing.senders
        return given and receiver == crossing.receiver

    def between(self, sender: int, receiver: int) -> tuple[int, ...]:
        """The wires that go from one party to another."""
        wires = self._wires_to.get(receiver, {})
        # Those of one sender are found at once: a server has wires from every client.
        shared = [w for w in wires.get(None, ()) if self.crosses(w, sender, receiver)]
        return (*wires.get(sender, ()), *shared)

    @cached_property
    def _wires_to(self) -> dict[int, dict[int | None, list[int]]]:
        """By receiver and sender, the wires; by `None` those that several may use."""
        found: dict[int, dict[int | None, list[int]]] = {}
        for wire, crossing in enumerate(self.crossings):
            only = crossing.senders[0] if len(crossing.senders) == 1 else None
            of_receiver = found.setdefault(crossing.receiver, {})
            of_receiver.setdefault(only, []).append(wire)
        return found

    def name(self, place: int) -> str:
        """A party's name; a place may be anything that came in a head."""
        return self.parties[place] if place < len(self.parties) else f"party {place}"


def in_words(shapes: Shapes) -> str:
    """Dtypes and shapes in words: `float32[8,3]`, several joined by `and`."""
    # A head from outside may have thousands of arrays.
    words = [f"{dtype}[{','.join(map(str, shape))}]" for dtype, shape in shapes[:_FEW]]
    if len(shapes) > _FEW:
        words.append(f"{len(shapes) - _FEW} more")
    return " and ".join(words) or "nothing"
