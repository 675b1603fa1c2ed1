"""The steps of one party's training: taken, saved, gone back to, and ended.

What the party needs for a step is made in `process`; its own arithmetic is in `compute`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState
from jsplit.guarding import Evidence
from jsplit.party.bounds import OverBound
from jsplit.party.connection.farewell import passed_over
from jsplit.party.connection.network import RolledBack, Stopped
from jsplit.party.contract.record_order import Batches
from jsplit.party.epochs_of_run import EpochsOfRun
from jsplit.party.guard_of_run import GuardOfRun, Hijacked
from jsplit.party.process import PartyRun
from jsplit.party.recorder import Recorder
from jsplit.party.results import Metrics, Result
from jsplit.training.own_record import PartyRecord
from jsplit.training.verdicts import NotFinite
from jsplit.wire.errors import Refused
from jsplit.wire.open_files import lacks_files

_log = logging.getLogger("jsplit.party")


@dataclass
class Training:
    """What is left of a run, from the newest step that all have.

    Attributes:
        me: the party.
        on_step: called with the metrics of every step.
        asked: whether the party was asked to stop.
        record: called with what this party has seen of every step.
        guard: over what comes back to it.
        losses: by step, then by name.
        failed: how many times in a row a checkpoint could not be saved.
        recorder: keeps what crosses, for `record`.
        epochs: of a training that has them.
    """

    me: PartyRun
    on_step: Callable[[Metrics], object] | None
    asked: Callable[[], bool]
    record: Callable[[PartyRecord], object] | None = None
    guard: GuardOfRun | None = None
    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    failed: int = 0
    recorder: Recorder | None = None
    epochs: EpochsOfRun | None = None

    def __post_init__(self) -> None:
        if self.record is not None:
            me = self.me
            self.recorder = Recorder(me.local, me.incoming, self.record)

    def run(self) -> Result:
        """Train to the end, going back as often as another party comes back."""
        self.me.network.asked = self.asked
        self.me.get_ready(self.me.is_over)
        while True:
            try:
                state, stopped = self._steps()
                return self._leave(state) if stopped else self._finish(state)
            except RolledBack:
                # Its losses stay: steps are computed again with the same bits.
                _log.info("%s goes back: another epoch has begun", self.me.party)
            except Stopped:
                return self._leave_waiting()
            except (NotFinite, OverBound, Hijacked) as error:
                raise self.me.ended_by(error) from error
            except Refused:
                self.me.tell_of_last()
                raise

    def _steps(self) -> tuple[PartyState, bool]:
        """All steps from where all stand; the state, and whether it was asked to stop."""
        me = self.me
        steps = me.agreed.steps
        state, first = me.begin()
        # One object for all steps until the party goes back: by its identity `local`
        # knows whether what it has begun of later steps is still of the same run.
        batches = me.batch
        if self.recorder:
            self.recorder.begin()
        if self.guard is not None:
            self.guard.begin(first)
        epochs = self.epochs
        if epochs is not None:
            epochs.begin(first)
        for step in range(first, steps):
            # A verdict may have ended the run before, in this process or an earlier one.
            if step >= me.end:
                break
            state = me.hand_over(state, step)
            if epochs is not None:
                state = epochs.before(state, step)
            metrics = None
            if me.turns.works(me.party, step):
                state, metrics = _one_step(me, state, step, batches, self.recorder)
                self.losses[step] = dict(metrics.losses)
                if self.guard is not None:
                    self.guard.ended(step)
                if self.on_step:
                    self.on_step(metrics)
            state = me.hand_over_to_all(state, step)
            # Who has no turn counts along: all parties stand at the same step.
            state = state._replace(step=jnp.int32(step + 1))
            if epochs is not None:
                epochs.after(state, step, metrics)
            me.network.finished(step)
            last = step + 1 == me.end
            due = last or (step + 1) % me.agreed.checkpoint == 0
            # Asked once more after the save only: a party that is asked to stop right
            # here, between the two, must not leave without having saved.
            if due or self.asked():
                me.keep_pace(step, self.asked)
                # With a staleness steps are under way at any other time, and a state
                # amid them is none from which anybody could go on.
                if due or not me.agreed.staleness:
                    self._save(state, last=last)
                if self.asked():
                    return state, True
        return state, False

    def _save(self, state: PartyState, *, last: bool) -> None:
        """Save a checkpoint, and delete what all are past.

        Raises:
            OSError: if that has failed twice in a row, or at the last step; saves for
                which no file could be opened do not count.
        """
        me = self.me
        try:
            if self.epochs is not None:
                self.epochs.write(int(state.step))
            me.store.save(state)
        except OSError as error:
            # That no more files can be open is no failed save: the store has waited for
            # them, and the next checkpoint finds some or waits as long.
            scarce = lacks_files(error)
            # A disk may be full for a while. Older checkpoints are intact, so all that
            # is at stake is how far back a fault would throw the run.
            if last or self.failed and not scarce:
                raise
            self.failed += not scarce
            _log.error(
                "%s could not save step %d, older checkpoints are whole: %s",
                me.party,
                int(state.step),
                error,
            )
            return
        self.failed = 0
        me.store.prune_before(me.network.committed())
        me.network.durable(me.store.steps)
        if self.guard is not None:
            self.guard.saved(int(state.step), me.network.committed())

    def _leave(self, state: PartyState) -> Result:
        """The end of a party that was asked to stop, after the step it was in."""
        network, step = self.me.network, int(state.step)
        network.leave(f"`{self.me.party}` was asked to stop after step {step}.")
        return Result(
            state,
            step,
            _by_name(self.losses),
            stopped=True,
            epoch=network.epoch,
            evidence=self._evidence(),
        )

    def _leave_waiting(self) -> Result:
        """The end of a party that was asked to stop while it waited for others."""
        me = self.me
        # The step it was in may be half done, so what counts is what is saved.
        newest = max(me.store.steps)
        _log.info(
            "%s was asked to stop while it waited; its newest checkpoint is that "
            "of step %d",
            me.party,
            newest,
        )
        me.network.leave(f"`{me.party}` was asked to stop.")
        saved = {step: x for step, x in self.losses.items() if step < newest}
        return Result(
            me.store.restore(newest),
            newest,
            _by_name(saved),
            stopped=True,
            epoch=me.network.epoch,
            evidence=self._evidence(),
        )

    def _finish(self, state: PartyState) -> Result:
        """The end of a run: all have the last step, and each knows that all know."""
        me, steps = self.me, self.me.end
        member = me.network.member
        me.network.until(
            lambda: member.committed >= steps,
            "all to have saved the last step",
            me.agreed.parties,
        )
        me.store.prune_before(steps)
        # Noted before the goodbye, with all still awaited: if this party dies while it
        # says goodbye, it must say it once more. And again after it, with who is left.
        me.store.finish(steps, me.network.awaited())
        left = me.network.leave("", me.network.awaited())
        # Who was passed over to the end may come yet, and must learn that it is over.
        gone = [me.agreed.parties[peer] for peer in passed_over(member)]
        me.store.finish(steps, [*left, *gone])
        away = []
        for step, gone in me.turns.away:
            away.append((step, [me.turns.names[client] for client in gone]))
        epoch = me.network.epoch
        return Result(
            state,
            steps,
            _by_name(self.losses),
            epoch=epoch,
            away=away,
            evidence=self._evidence(),
        )

    def _evidence(self) -> tuple[Evidence, ...]:
        """What the guard has found, if there is one."""
        return () if self.guard is None else tuple(self.guard.evidence)


def _one_step(
    me: PartyRun,
    state: PartyState,
    step: int,
    batches: Batches,
    recorder: Recorder | None,
) -> tuple[PartyState, Metrics]:
    """One step, and what it took."""
    net, began = me.network, time.monotonic()
    # The network counts from its start on, so a step is the difference.
    sent, received, waited, posting = net.sent, net.received, net.waited, net.posting
    before = state
    state, found = me.local.step(state, batches, step, recorder or me.incoming)
    losses = {name: float(x) for name, x in found.items()}
    if me.agreed.nonfinite == "skip":
        me.incoming.faults.settle(step, me.local.judge.last)
    # JAX gives arrays before they are computed; without this the next step would pay.
    jax.block_until_ready((state.params, state.step))
    seconds = time.monotonic() - began
    wait, wire = net.waited - waited, net.posting - posting
    metrics = Metrics(
        step=step + 1,
        losses=losses,
        sent=net.sent - sent,
        received=net.received - received,
        seconds=seconds,
        compute=max(seconds - wait - wire, 0.0),
        wire=wire,
        wait=wait,
        epoch=net.epoch,
    )
    if recorder:
        # After the clock: it is no work of the training.
        recorder.end(step, before, batches(step), found)
    _log.debug("%s", json.dumps({"party": me.party, **metrics.plain()}))
    return state, metrics


def _by_name(losses: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    """The losses of all steps in their order, by name."""
    names = next(iter(losses.values()), {})
    return {name: [losses[step][name] for step in sorted(losses)] for name in names}
