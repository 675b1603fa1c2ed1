"""A validation over the network within a step: a batch after the other, and then the verdict.

Nobody is more than two batches ahead of the party that decides, which says after each that it
has measured it: so a validation of any size takes the memory of two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PartyState, PyTree
from jsplit.party.compute.warming import Warming
from jsplit.party.contract.record_order import Records
from jsplit.party.crossings_of_epochs import EpochFrames
from jsplit.party.epoch_verdicts import Word, frame_of, read
from jsplit.party.incoming import Incoming
from jsplit.party.passes import means
from jsplit.party.process import PartyRun
from jsplit.party.task import Task, TaskKind
from jsplit.training.metrics import compute_metrics

_AHEAD = 2
"""Batches that may be under way."""


class Measured(NamedTuple):
    """What a party has measured on the validation data.

    Attributes:
        losses: that it computes, by name.
        metrics: likewise.
    """

    losses: Mapping[str, float]
    metrics: Mapping[str, float | int | bool]


class _Twins:
    """The exchange of a step, by which batches of a validation cross, counted as steps are."""

    def __init__(self, frames: EpochFrames, exchange: Incoming, of: int):
        self.at, self.exchange, self.of = frames.validating, exchange, of

    def send(
        self, wire: int, step: int, micro: int, arrays: Sequence[ArrayLike]
    ) -> None:
        """Send a value of a batch."""
        self.exchange.send(self.at(wire), self.of, step, arrays)

    def there(self, wire: int, step: int, micro: int) -> bool:
        """Whether a value of a batch has come."""
        return self.exchange.there(self.at(wire), self.of, step)

    def take(self, wire: int, step: int, micro: int) -> Sequence[ArrayLike]:
        """A value of a batch; waits for it."""
        return self.exchange.take(self.at(wire), self.of, step)

    def wait(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Wait until one of several values has come."""
        twins = [(self.at(wire), self.of, step) for wire, step, _ in wanted]
        self.exchange.wait(twins)


@dataclass
class Validating:
    """One party's part in the validations of a run.

    Attributes:
        me: the party.
        frames: what crosses at the end of an epoch.
        records: that it validates with.
    """

    me: PartyRun
    frames: EpochFrames
    records: Records | None

    @property
    def decides(self) -> bool:
        """Whether the verdict is this party's."""
        return self.me.party == self.frames.decider

    def measure(self, state: PartyState, step: int) -> Measured | None:
        """Measure a state together with all others; `None` without validation data.

        Args:
            state: of this party.
            step: at whose end.
        """
        me, frames, records = self.me, self.frames, self.records
        if records is None:
            return None
        size, epoch = me.agreed.batch, self.frames.epochs
        exchange = _Twins(frames, me.incoming, step)
        found = []
        for batch in range(frames.batches):
            if batch >= _AHEAD and not self.decides:
                self._told(step, batch - _AHEAD)
            first, many = batch * size, epoch.size_of(batch, size)
            fields = records.take(np.arange(first, first + many))
            given = me.local.evaluate(state, fields, batch, many, exchange)
            # Off the device at once: what metrics read of all may not fit there.
            found.append(jax.tree.map(np.asarray, given))
            if self.decides and batch + 1 < frames.batches:
                self.say(step, batch, Word.MEASURED, 0.0)
        task = validation_task(frames)
        losses, rows = zip(*found, strict=True)
        # Validation is without weights, as in one process.
        metrics = compute_metrics(me.local.topology, me.local.metrics, rows)
        return Measured(means(me.local.topology, task, losses), metrics)

    def say(self, step: int, batch: int | None, word: Word, number: float) -> None:
        """Say a word to all others.

        Args:
            step: at whose end.
            batch: after which batch, to those who validate; `None`: the verdict, to all.
            word: what is said.
            number: what was measured, which is told where that was agreed.
        """
        me, frames = self.me, self.frames
        told = number if frames.epochs.tells else None
        said = frame_of(step // frames.epochs.steps, word, told)
        for party in frames.others:
            last = frames.words(party) - 1
            if batch is None or batch < last:
                place = last if batch is None else batch
                me.network.send(frames.verdict(party), step, place, said)

    def verdict(self, step: int) -> tuple[Word, float | None]:
        """The verdict of the party that decides; waits for it.

        Raises:
            Refused: if it says what cannot be.
        """
        words = self.frames.words(self.me.party)
        for batch in range(max(words - _AHEAD, 0), words - 1):
            self._told(step, batch)
        return self._told(step, words - 1)

    def _told(self, step: int, batch: int) -> tuple[Word, float | None]:
        me, frames = self.me, self.frames
        arrays = me.network.take(frames.verdict(me.party), step, batch)
        last = batch + 1 == frames.words(me.party)
        epoch = step // frames.epochs.steps
        try:
            return read(arrays, epoch, last=last)
        except ValueError as error:
            raise me.network.refuse(
                f"`{frames.decider}` told `{me.party}`, at the end of epoch "
                f"{epoch}, {error}."
            ) from None


def validation_task(frames: EpochFrames) -> Task:
    """A validation, as the inference that it is."""
    count = frames.epochs.validation
    return Task(TaskKind.EVALUATE, frames.batches, frames.agreed.batch, count)


def compile_validation(
    frames: EpochFrames,
    training: Warming,
    fields: Mapping[str, PyTree],
    enough: Callable[[], bool],
) -> None:
    """Compile what a validation runs, before others could wait for it.

    Args:
        frames: what crosses at the end of an epoch.
        training: how the programs of a step are compiled.
        fields: one record at least of the validation data, by name.
        enough: whether to leave the rest.
    """
    if frames.batches:
        task, local = validation_task(frames), training.local
        Warming(local, task, training.state, fields, training.more).compile(enough)
