"""What crosses at the end of an epoch: the values of a validation, and the verdict on it.

Each wire of a step has a twin for validation, whose frames are batches; and from the party
that decides a verdict goes to each other one, once a batch, the last of them with the word.
Where clients take turns, the one whose turn ends an epoch validates, with those always there;
the others hear the last word alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jsplit.party.compute.local import Local
from jsplit.party.contract import schema
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.epochs import Epochs
from jsplit.wire.codec import Shapes
from jsplit.wire.epoch_schedule import EpochSchedule
from jsplit.wire.schedule import Schedule
from jsplit.wire.terms import Crossing

_WORD: Shapes = ((np.dtype(np.int32), (2,)),)
"""Of a verdict: the number of the epoch, and its word."""
_NUMBER: Shapes = ((np.dtype(np.float64), ()),)
"""Of a verdict that tells what was measured."""


@dataclass(frozen=True)
class EpochFrames:
    """The frames at the end of epochs, as one party knows them.

    Attributes:
        agreed: what the parties have agreed on.
        local: this party's part, which knows the shapes of what crosses.
        epochs: of the agreement.
    """

    agreed: Agreement
    local: Local
    epochs: Epochs

    @cached_property
    def client(self) -> int:
        """Whose turn ends an epoch, by place."""
        return self.agreed.turns.client(self.epochs.steps - 1)

    @property
    def decider(self) -> str:
        """The party whose verdict it is."""
        return self.epochs.decider(self.agreed.turns)

    def validates(self, party: str) -> bool:
        """Whether a party has a part in validations."""
        return self.agreed.turns.works(party, self.epochs.steps - 1)

    @cached_property
    def training(self) -> int:
        """How many crossings are of steps and turns; those of epochs come after them."""
        return len(self.agreed.turns.crossings(self.local.wires))

    @property
    def batches(self) -> int:
        """How many batches are validated."""
        return self.epochs.batches(self.agreed.batch)

    @cached_property
    def others(self) -> list[str]:
        """To whom a verdict is told, in the order of its crossings."""
        return [p for p in self.agreed.parties if p != self.decider]

    def words(self, party: str) -> int:
        """How many frames of a verdict a party gets in an epoch."""
        # One for each batch: nobody sends more batches than the one that decides has
        # measured, so a validation of any size takes the memory of two.
        return max(self.batches, 1) if self.validates(party) else 1

    def validating(self, wire: int) -> int:
        """The place of the twin of a wire, of whichever client."""
        return self.training + wire % len(self.local.wires)

    def wire(self, crossing: int) -> int | None:
        """The wire that a crossing is the twin of; `None` of one that is no twin."""
        wire = crossing - self.training
        return wire if 0 <= wire < len(self.local.wires) else None

    def verdict(self, party: str) -> int:
        """The place of the verdicts to a party."""
        return self.training + len(self.local.wires) + self.others.index(party)

    def crossings(self, training: Sequence[Crossing]) -> tuple[Crossing, ...]:
        """All crossings, those of training first."""
        place = self.agreed.parties.index
        sender = (place(self.decider),)
        verdicts = [
            Crossing("verdict", "verdict", sender, place(p)) for p in self.others
        ]
        return (*training, *self._twins(training), *verdicts)

    def _twins(self, training: Sequence[Crossing]) -> Sequence[Crossing]:
        """The wires of the client that validates."""
        first = self.client * len(self.local.wires)
        return training[first : first + len(self.local.wires)]

    def _by_crossing(self, training: Sequence[Shapes], size: int) -> tuple[Shapes, ...]:
        validating = [
            schema.arrays(self.local.like(wire, size)[0])
            for wire in range(len(self.local.wires))
        ]
        word = (*_WORD, *(_NUMBER if self.epochs.tells else ()))
        verdicts = [word] * len(self.others)
        return (*training, *validating, *verdicts)

    def shapes(self, training: Sequence[Shapes]) -> tuple[Shapes, ...]:
        """By crossing, the shapes of a frame; of validation those of a full batch."""
        return self._by_crossing(training, self.size_of(0))

    def end_shapes(self, training: Sequence[Shapes]) -> tuple[Shapes, ...]:
        """By crossing, the shapes of the last frame in a step."""
        return self._by_crossing(training, self.size_of(self.batches - 1))

    def size_of(self, batch: int) -> int:
        """How many records a batch of the validation has."""
        if not self.batches:
            return self.agreed.batch
        return self.epochs.size_of(batch, self.agreed.batch)

    def counts(self, training: Sequence[Crossing], micros: int) -> tuple[int, ...]:
        """By crossing, the frames in a step that uses it."""
        once = ("scalar", "weights")
        found = [1 if c.kind in once else micros for c in training]
        # Nothing but activations crosses in inference.
        twins = self._twins(training)
        forward = [self.batches if c.kind == "activation" else 0 for c in twins]
        return (*found, *forward, *map(self.words, self.others))

    def schedule(self, of_turns: Schedule, steps: int) -> EpochSchedule:
        """In which steps each crossing is used."""
        return EpochSchedule(
            of_turns.rota,
            of_turns.wires,
            of_turns.players,
            every=self.epochs.steps,
            steps=steps,
            training=self.training,
        )
