"""Training: one party's part of every step, with the others over the network."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.party.connection.network import RolledBack, Stopped
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.records import Batches
from jsplit.party.join import Prepared, prepare
from jsplit.party.process import Metrics, Own, PartyRun, Result
from jsplit.wire.certs import Trust

_log = logging.getLogger("jsplit.party")


def run(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | Batches | None = None,
    *,
    credentials: Trust,
    optimizer: optax.GradientTransformation | None = None,
    ids: Sequence[Any] | None = None,
    checkpoint: str | os.PathLike | None = None,
    links: Mapping[str, Link] | None = None,
    backward: str = "residuals",
    on_step: Callable[[Metrics], Any] | None = None,
    stop: threading.Event | None = None,
    keep_replies: bool = True,
    **network: Any,
) -> Result:
    """Train: this party's part of every step, with the others over the network, until all have done the agreed steps.

    Equals `jsplit.messages` of the whole topology, bit for bit, whatever connections are cut and whichever parties are
    killed and started again on the way. With a `staleness` in the agreement it is another training, as repeatable.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        own: its segments and loss functions, by name, or a topology that has them.
        data: its fields, [record, ...], or `batch(step)`, which may be asked for before its step and more than once. Where
            clients take turns, a party that is always there gives such fields, and ids, by client.
        credentials: its certificate and key, `jsplit.party.credentials`.
        optimizer: its own, if it has parameters.
        ids: of its records; all parties must have the same.
        checkpoint: its own folder; without one, this party's own death is not made good.
        links: links by the names that the agreement gives them, beyond those of `jsplit.compress`.
        backward: mode, as for `jsplit.fused`.
        on_step: called with the `Metrics` of every step.
        stop: when set, the party ends after the step it is in, with a checkpoint, or at once with the newest that it has if it
            waits for others; started again, it goes on.
        keep_replies: keep what was sent until the receiver has it. Only a test switches this off.
        network: `listen`, `addresses`, `remind`, `pulse`; see `jsplit.party.connection.network.Network`.

    Raises:
        ValueError: naming the argument that does not fit the agreement.
        Refused: if the parties do not agree, in one line.
        Missing: if a party did not come, or come back, for as long as agreed.
    """
    steps, size = agreed["steps"], agreed["batch"] // agreed["microbatches"]
    with prepare(
        agreed,
        party,
        own,
        "train",
        steps,
        lambda step: size,
        credentials=credentials,
        data=data,
        ids=ids,
        optimizer=optimizer,
        links=links,
        backward=backward,
        checkpoint=checkpoint,
        keep_replies=keep_replies,
    ) as ready:
        asked = stop.is_set if stop is not None else bool
        if (awaited := ready.disk.done(steps)) is not None:
            return _over(ready, awaited, asked, network)
        with ready.connected(**network) as me:
            return _trained(me, on_step, asked)


def _trained(
    me: PartyRun, on_step: Callable[[Metrics], Any] | None, asked: Callable[[], bool]
) -> Result:
    """What is left of the run, from the newest step that all have."""
    agreed, party, steps = me.agreed, me.party, me.agreed["steps"]
    me.network.asked = asked
    losses: dict[int, dict[str, float]] = {}
    failed = 0
    while True:
        try:
            (state, first), batches = me.begin(), me.batch
            for step in range(first, steps):
                state = me.hand_over(state, step)
                if me.turns.works(party, step):
                    state, metrics = _one_step(me, state, step, batches)
                    losses[step] = dict(metrics.losses)
                    if on_step:
                        on_step(metrics)
                state = state._replace(step=jnp.int32(step + 1))
                last = step + 1 == steps
                state = me.hand_over(state, steps) if last else state
                me.network.finished(step)
                due = (step + 1) % agreed["checkpoint"] == 0 or last
                if due or asked():
                    me.keep_pace(step, asked)
                    if (
                        due or not agreed["staleness"]
                    ):  # else steps are under way, of which no state can be saved
                        failed = _saved(me, state, failed, last=last)
                    if asked():
                        me.network.leave(
                            f"`{party}` was asked to stop after step {step + 1}."
                        )
                        return Result(
                            state,
                            step + 1,
                            _of_all(losses),
                            stopped=True,
                            epoch=me.network.epoch,
                        )
            me.network.until(
                lambda: me.network.member.committed >= steps,
                "all to have saved the last step",
                agreed.parties,
            )
            me.disk.keep_from(steps)
            me.disk.finish(steps, me.network.awaited())
            me.disk.finish(steps, me.network.leave("", me.network.awaited()))
            away = [
                (step, [me.turns.names[c] for c in gone])
                for step, gone in me.turns.away
            ]
            return Result(
                state, steps, _of_all(losses), epoch=me.network.epoch, away=away
            )
        except RolledBack:
            _log.info("%s goes back: another party has come back", party)
        except Stopped:
            newest = max(me.disk.steps)
            _log.info(
                "%s was asked to stop while it waited; its newest checkpoint is that of step %d",
                party,
                newest,
            )
            me.network.leave(f"`{party}` was asked to stop.")
            losses = {s: x for s, x in losses.items() if s < newest}
            return Result(
                me.disk.restore(newest),
                newest,
                _of_all(losses),
                stopped=True,
                epoch=me.network.epoch,
            )


def _over(
    ready: Prepared,
    awaited: Sequence[str],
    asked: Callable[[], bool],
    network: Mapping[str, Any],
) -> Result:
    """What is left of a run that all have on disk to its end: to say so to those of whom it is not known that they know."""
    steps = ready.agreed["steps"]
    if awaited:
        ready.member.committed = steps
        with ready.connected(**network) as me:
            me.network.asked = asked
            me.disk.finish(steps, me.network.leave("", awaited))
    return Result(ready.disk.restore(steps), steps)


def _one_step(
    me: PartyRun, state: PartyState, step: int, batches: Batches
) -> tuple[PartyState, Metrics]:
    """One step, and what it took."""
    net, began = me.network, time.monotonic()
    sent, received, waited, posting = net.sent, net.received, net.waited, net.posting
    state, found = me.local.step(state, batches, step, net)
    losses = {n: float(x) for n, x in found.items()}
    jax.block_until_ready((state.params, state.step))
    seconds, wait, wire = (
        time.monotonic() - began,
        net.waited - waited,
        net.posting - posting,
    )
    took = (seconds, max(seconds - wait - wire, 0.0), wire, wait)
    metrics = Metrics(
        step + 1, losses, net.sent - sent, net.received - received, *took, net.epoch
    )
    _log.debug("%s", json.dumps({"party": me.party, **metrics.plain()}))
    return state, metrics


def _saved(me: PartyRun, state: PartyState, failed: int, *, last: bool) -> int:
    """Save a checkpoint, and delete what all are past. Gives how many times in a row that has failed.

    Raises:
        OSError: if it has failed twice, or at the last step.
    """
    try:
        me.disk.save(state)
    except OSError as error:
        if failed or last:
            raise
        _log.error(
            "%s could not save step %d, older checkpoints are whole: %s",
            me.party,
            int(state.step),
            error,
        )
        return failed + 1
    me.disk.keep_from(me.network.committed())
    me.network.durable(me.disk.steps)
    return 0


def _of_all(losses: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    names = next(iter(losses.values()), {})
    return {n: [losses[s][n] for s in sorted(losses)] for n in names}
