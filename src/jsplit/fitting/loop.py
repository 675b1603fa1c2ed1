"""The loop: steps of an epoch, what is measured after it, who is told, what is kept.

Nothing in it waits for the device but where numbers are wanted: at the end of an epoch, and where
a checkpoint is written.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import cast

import jax
from jax.typing import ArrayLike

from jsplit.core.base import TrainState
from jsplit.fitting.calling import callbacks_of, tell_end, tell_epoch
from jsplit.fitting.history import VALIDATION, Running
from jsplit.fitting.interrupts import interruptible
from jsplit.fitting.pieces import digest
from jsplit.fitting.plan import Plan
from jsplit.fitting.records import Epoch, Fitted, State, Told
from jsplit.fitting.tally import Tally, columns_of, count_of, hyperparams_of
from jsplit.training.hyperparams import set_hyperparams
from jsplit.training.recording import Recorded


def run(plan: Plan, begun: Fitted) -> Fitted:
    """Train until all epochs are done, or there is a reason to end before.

    Args:
        plan: what is to be done.
        begun: where to start from, or to go on.

    Returns:
        What the training has led to.
    """
    loop = _Loop(plan, begun)
    with interruptible() as asked:
        try:
            for call in callbacks_of(plan.callbacks, "on_start"):
                call(loop.now.history)
            loop.train(asked)
        finally:
            tell_end(plan.callbacks, loop.now.history)
    # Without an epoch there is no best one, and the first state may be used up.
    none = loop.now.history.best is None
    return loop.now._replace(best=loop.now.state) if none else loop.now


class _Loop:
    """A training on its way: where it is now, and what it does next."""

    def __init__(self, plan: Plan, begun: Fitted):
        self.plan = plan
        # The last state may be the best as well, and a step would use up both.
        self.now = begun._replace(best=_held(begun.best, plan.donates))
        self.on_step = callbacks_of(plan.callbacks, "on_step")

    def train(self, asked: threading.Event) -> None:
        """Train epoch by epoch until there is a reason to end."""
        plan = self.plan
        # A training that was ended by a callback is done, whatever else goes on.
        if self.now.history.stopped == "callback":
            return
        self._say(stopped="")
        while True:
            history = self.now.history
            if plan.monitor.worn_out(history.rows):
                return self._end("patience")
            if len(history) >= plan.epochs:
                return self._end("epochs")
            # Also one that came while it was measured.
            if asked.is_set() or not self._epoch(asked):
                return self._end("interrupted")
            if self.now.history.stopped:
                return None

    def _say(self, **changes: object) -> None:
        history = replace(self.now.history, **cast(dict, changes))
        self.now = self.now._replace(history=history)

    def _end(self, why: str) -> None:
        # Nothing is new but why: at the end of an epoch all is kept already.
        self._say(stopped=why)

    def _epoch(self, asked: threading.Event) -> bool:
        """Train for an epoch, or what is left of it; False if it was interrupted."""
        plan, number, begun = self.plan, len(self.now.history), time.monotonic()
        running = self.now.history.running
        tally = Tally(plan.topology, running)
        if not running.steps:
            self._set_hyperparams(number)
        known, given = running.digest, 0
        for place, read in enumerate(plan.source.pieces(number)):
            given = place + 1
            if place and place < running.steps:
                continue
            piece = read()
            if place == 0:
                known = _same(known, digest(piece), number)
            if place < running.steps:
                continue
            state, told = plan.step(self.now.state, piece)
            self.now = self.now._replace(state=state)
            self._stepped(told, tally, count_of(piece))
            steps = self.now.history.steps
            if asked.is_set() or (plan.every and steps % plan.every == 0):
                self._say(running=tally.running(known))
                self._keep()
                if asked.is_set():
                    return False
        if given == 0:
            raise ValueError(
                f"`data` gives 0 batches in epoch {number}: what can be read once only is "
                "used up. Give a list, a loader, or a function of the epoch."
            )
        # The tally has those of before, too.
        if given < running.steps:
            raise ValueError(
                f"`data` gives {given} batches in epoch {number}, and {running.steps} "
                "were read of it before the training was stopped in the middle of it."
            )
        self._measured(number, tally, begun)
        return True

    def _stepped(self, told: object, tally: Tally, count: float) -> None:
        plain = cast(Told, told.info if isinstance(told, Recorded) else told)
        tally.add(plain, count)
        self._say(steps=self.now.history.steps + 1)
        for call in self.on_step:
            call(self.now.history.steps, told)

    def _set_hyperparams(self, number: int) -> None:
        if not self.plan.hyperparams:
            return
        values: dict[str, ArrayLike] = {
            name: of_epoch(number) for name, of_epoch in self.plan.hyperparams.items()
        }
        # As the checker must see it: of either kind of state it gives the same kind.
        state = set_hyperparams(cast(TrainState, self.now.state), values)
        self.now = self.now._replace(state=state)

    def _measured(self, number: int, tally: Tally, begun: float) -> None:
        """Measure after an epoch, tell, and keep."""
        plan, state = self.plan, self.now.state
        row, validation = tally.row(), None
        if plan.evaluate is not None:
            validation = plan.evaluate(state, number)
            found = jax.device_get(columns_of(plan.topology, validation))
            row |= {VALIDATION + name: float(x) for name, x in found.items()}
            row |= {VALIDATION + name: x for name, x in validation.metrics.items()}
        row |= hyperparams_of(state, plan.hyperparams, number)
        plan.monitor.check(row)
        rows = (*self.now.history.rows, row)
        best = plan.monitor.best(rows)
        seconds = (*self.now.history.seconds, time.monotonic() - begun)
        self._say(rows=rows, seconds=seconds, best=best, running=Running())
        if best == number:
            self.now = self.now._replace(best=_held(state, plan.donates))
        told = Epoch(number, row, state, best == number, validation, self.now.history)
        if tell_epoch(plan.callbacks, told):
            self._end("callback")
        self._keep()

    def _keep(self) -> None:
        if self.plan.checkpoints is not None:
            self.plan.checkpoints.write(self.now)


def _held(state: State, donates: bool) -> State:
    """A state that stays valid whatever the next step does."""
    if not donates:
        return state
    return jax.tree.map(lambda x: x.copy(), state)


def _same(known: str, found: str, number: int) -> str:
    """The digest of the first step of an epoch.

    Raises:
        ValueError: if the step was taken already, and had read something else.
    """
    if known and known != found:
        raise ValueError(
            f"`data` gives other batches in epoch {number} than before the training was "
            "stopped in the middle of it: an order that is drawn anew cannot go on. Give "
            "arrays, or a function of the epoch."
        )
    return found
