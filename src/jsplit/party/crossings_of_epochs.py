"""What crosses at the end of an epoch: the values of a validation, and the verdict on it.

Each wire of a step has a twin for validation, whose frames are batches; and from the party
that decides a verdict goes to each other one, once a batch, the last of them with the word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jsplit.party.compute.local import Local
from jsplit.party.contract import schema
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.epochs import Epochs
from jsplit.wire.codec import Shapes
from jsplit.wire.epoch_schedule import EpochSchedule
from jsplit.wire.schedule import Schedule
from jsplit.wire.terms import Crossing

VALIDATION = "validation"
"""In the place of a client, where parties say how many records they have of each."""
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

    @property
    def batches(self) -> int:
        """How many batches are validated."""
        return self.epochs.batches(self.agreed.batch)

    @property
    def words(self) -> int:
        """How many frames of a verdict there are in an epoch."""
        # One for each batch: nobody sends more batches than the one that decides has
        # measured, so a validation of any size takes the memory of two.
        return max(self.batches, 1)

    def validating(self, wire: int) -> int:
        """The place of the twin of a wire."""
        return len(self.local.wires) + wire

    def verdict(self, party: str) -> int:
        """The place of the verdicts to a party."""
        others = [p for p in self.agreed.parties if p != self.epochs.decides]
        return 2 * len(self.local.wires) + others.index(party)

    def crossings(self, training: Sequence[Crossing]) -> tuple[Crossing, ...]:
        """All crossings, those of training first."""
        parties = self.agreed.parties
        decides = parties.index(self.epochs.decides)
        verdicts = [
            Crossing("verdict", "verdict", (decides,), place)
            for place in range(len(parties))
            if place != decides
        ]
        return (*training, *training, *verdicts)

    def _by_crossing(self, training: Sequence[Shapes], size: int) -> tuple[Shapes, ...]:
        validating = [
            schema.arrays(self.local.like(wire, size)[0])
            for wire in range(len(self.local.wires))
        ]
        word = (*_WORD, *(_NUMBER if self.epochs.tells else ()))
        verdicts = [word] * (len(self.agreed.parties) - 1)
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
        found = [1 if c.kind == "scalar" else micros for c in training]
        # Nothing but activations crosses in inference.
        forward = [self.batches if c.kind == "activation" else 0 for c in training]
        return (*found, *forward, *[self.words] * (len(self.agreed.parties) - 1))

    def schedule(self, of_turns: Schedule, steps: int) -> EpochSchedule:
        """In which steps each crossing is used."""
        return EpochSchedule(
            of_turns.rota,
            of_turns.wires,
            of_turns.players,
            every=self.epochs.steps,
            steps=steps,
            training=len(self.local.wires),
        )
