"""The epochs of one party's training: what is measured after each, decided, told and kept.

The steps themselves are in `steps`; a run that goes on, or back, decides again as it did.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Info, PartyState, TrainState
from jsplit.fitting.calling import callbacks_of, tell_epoch
from jsplit.fitting.history import VALIDATION, History, Row, Running
from jsplit.fitting.monitor import Monitor
from jsplit.fitting.records import Epoch
from jsplit.fitting.tally import hyperparams_of
from jsplit.party.contract.epochs import Epochs
from jsplit.party.epoch_losses import OwnLosses, added, row_of
from jsplit.party.epoch_verdicts import word_of
from jsplit.party.kept_epochs import Kept, KeptEpochs, copied
from jsplit.party.process import PartyRun
from jsplit.party.results import Metrics
from jsplit.party.validating import Measured, Validating
from jsplit.training.hyperparams import set_hyperparams

_log = logging.getLogger("jsplit.party")


class Fitted(NamedTuple):
    """What `jsplit.party.fit` gives to one party, of its own part.

    Attributes:
        state: after the last step.
        best: after the best epoch, which the party that decides has found; `state`
            itself where no epoch was done.
        history: what this party measured in each epoch, and how the training ended.

    Example:
        >>> from jsplit import party
        >>> party.Fitted._fields
        ('state', 'best', 'history')
    """

    state: PartyState
    best: PartyState
    history: History


@dataclass
class EpochsOfRun:
    """The epochs of one party's training.

    Attributes:
        epochs: as agreed.
        losses: that this party computes.
        kept: where records lie.
        monitor: by what epochs are compared, at the party that decides; `None` at
            others.
        hyperparams: by name, a function of the epoch.
        callbacks: what is told.
        now: the history, and which epoch was the best.
        best: its state, once this process has it.
    """

    epochs: Epochs
    losses: OwnLosses
    kept: KeptEpochs
    monitor: Monitor | None
    hyperparams: Mapping[str, Callable[[int], ArrayLike]] = field(default_factory=dict)
    callbacks: Sequence[object] = ()
    now: Kept = Kept(History())
    best: PartyState | None = None

    def __post_init__(self) -> None:
        if self.monitor is not None:
            column = self.monitor.column
        else:
            column = self.epochs.tells or f"the verdict of {self.epochs.decides}"
        self._wanted = History(monitor=column)
        self._began, self._skipped = 0.0, 0
        newest = max(self.kept.store.steps)
        self.now = self.kept.read(newest, self._wanted)
        self._newest = newest

    def over(self, me: PartyRun, validating: Validating) -> None:
        """Take the party and its connections, once it has them."""
        self.me, self.validating = me, validating
        me.end = self.end(me.agreed.steps)

    def end(self, steps: int) -> int:
        """The step at which the run ends, as far as is known on disk.

        Args:
            steps: as agreed.
        """
        return self._newest if self.now.history.stopped else steps

    def tell(self, name: str, *what: object) -> list[object]:
        """Call each callback that has a method of this name."""
        return [call(*what) for call in callbacks_of(self.callbacks, name)]

    # A step.

    def begin(self, step: int) -> None:
        """Go on from a step, perhaps an earlier one than this party has come to."""
        self.now, self.best = self.kept.read(step, self._wanted), None
        self._newest = step
        self.me.end = self.end(self.me.agreed.steps)
        self._began = time.monotonic()
        self._skipped = self.me.incoming.faults.count

    def before(self, state: PartyState, step: int) -> PartyState:
        """The state with which a step is taken: hyperparameters are set by epoch."""
        turns, party = self.me.turns, self.me.party
        begins = step % self.epochs.steps == 0
        # What another client has handed over comes with that one's own.
        begins = begins or not turns.works(party, step - 1)
        if not (self.hyperparams and begins and turns.works(party, step)):
            return state
        number, party = step // self.epochs.steps, self.me.local.party
        values = {name: of(number) for name, of in self.hyperparams.items()}
        return set_hyperparams(TrainState({party: state}), values).parties[party]

    def after(self, state: PartyState, step: int, metrics: Metrics | None) -> None:
        """Note what a step told; after the last of an epoch measure, decide and tell.

        Args:
            state: after it.
            step: its number.
            metrics: what it took; `None` where another client had its turn.
        """
        self._say(steps=step + 1)
        if metrics is not None:
            self._count_in(state, step, metrics)
            self.tell("on_step", step + 1, metrics)
        if self.epochs.last_of(step):
            self._measured(state, step)

    def _count_in(self, state: PartyState, step: int, metrics: Metrics) -> None:
        # Of a step that all have left out the loss may be NaN.
        skipped, self._skipped = self._skipped, self.me.incoming.faults.count
        columns = self.losses.columns(metrics.losses, state)
        left_out = self._skipped > skipped
        running = added(
            self.now.history.running, None if left_out else columns, self._count(step)
        )
        self._say(running=running)

    def _count(self, step: int) -> float:
        weight = self.me.agreed.weight
        if not weight or not self.losses.names:
            return float(self.me.agreed.batch)
        return float(np.sum(np.asarray(self.me.batch(step)[weight]), dtype=np.float64))

    def _say(self, **changes: object) -> None:
        history = replace(self.now.history, **cast(dict, changes))
        self.now = self.now._replace(history=history)

    # The end of an epoch.

    def _measured(self, state: PartyState, step: int) -> None:
        number, history = len(self.now.history), self.now.history
        row, info = row_of(history.running), None
        measured = self.validating.measure(state, step)
        if measured is not None:
            found = self.losses.columns(measured.losses, state)
            row |= {VALIDATION + n: x for n, x in found.items()}
            row |= {VALIDATION + n: x for n, x in measured.metrics.items()}
            info = self._info(measured, state)
        own = TrainState({self.me.local.party: state})
        row |= hyperparams_of(own, self.hyperparams, number)
        seconds = (*history.seconds, time.monotonic() - self._began)
        self._began = time.monotonic()
        self._say(seconds=seconds, running=Running())
        if self.monitor is not None:
            self._decide(self.monitor, state, step, row, info)
        else:
            self._learn(state, step, row, info)
        _log.info("%s: epoch %d is done", self.me.party, number)

    def _info(self, measured: Measured, state: PartyState) -> Info | None:
        info = self.losses.info(measured.losses, state)
        return info and info._replace(metrics=measured.metrics)

    def _decide(
        self,
        monitor: Monitor,
        state: PartyState,
        step: int,
        row: Row,
        info: Info | None,
    ) -> None:
        """Say which epoch is the best, and whether to go on."""
        monitor.check(row)
        number = len(self.now.history)
        rows = (*self.now.history.rows, row)
        is_best = monitor.best(rows) == number
        self._end_epoch(state, step, row, is_best)
        # Before the others are told, since a callback may end the training.
        told = self._on_epoch(state, row, is_best, info)
        why = "callback" if told else "patience" if monitor.worn_out(rows) else ""
        tells = self.epochs.tells
        word = word_of(best=is_best, stops=bool(why))
        value = float(row[tells]) if tells else 0.0
        self.validating.say(step, None, word, value)
        self._ended(step, why)

    def _learn(
        self, state: PartyState, step: int, row: dict, info: Info | None
    ) -> None:
        """Hear the verdict of the party that decides."""
        word, told = self.validating.verdict(step)
        if told is not None:
            row[self.epochs.tells] = told
        self._end_epoch(state, step, row, word.best)
        if self._on_epoch(state, row, word.best, info):
            _log.warning(
                "%s: a callback would end the training, which only `%s` can; it goes on",
                self.me.party,
                self.epochs.decides,
            )
        self._ended(step, "verdict" if word.stops else "")

    def _end_epoch(self, state: PartyState, step: int, row: Row, is_best: bool) -> None:
        number = len(self.now.history)
        best = number if is_best else self.now.history.best
        self._say(rows=(*self.now.history.rows, row), best=best)
        if is_best:
            self.now, self.best = self.now._replace(best=step + 1), copied(state)

    def _on_epoch(
        self, state: PartyState, row: Row, is_best: bool, info: Info | None
    ) -> bool:
        number = len(self.now.history) - 1
        own = TrainState({self.me.local.party: state})
        told = Epoch(number, row, own, is_best, info, self.now.history)
        return tell_epoch(self.callbacks, told)

    def _ended(self, step: int, why: str) -> None:
        if why:
            self._say(stopped=why)
            self.me.end = step + 1

    # What is kept.

    def write(self, step: int) -> None:
        """Keep what is known, before the checkpoint of a step is saved."""
        self.kept.write(step, self.now, self.best)

    def fitted(self, state: PartyState, *, interrupted: bool) -> Fitted:
        """What this party has in the end.

        Args:
            state: after its last step.
            interrupted: whether it was asked to stop.
        """
        step = int(state.step)
        # It may have been asked to stop in the middle of a step, which does not count.
        if self.now.history.steps != step:
            self.now, self.best = self.kept.read(step, self._wanted), None
        why = "interrupted" if interrupted else "epochs"
        self._say(stopped=self.now.history.stopped or why)
        if not interrupted:
            self.kept.tidy(self.now)
        best = self.best
        if best is None:
            at = self.now.best
            best = state if at is None else self.kept.restore_best(at)
        return Fitted(state, best, self.now.history)
