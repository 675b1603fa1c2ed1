"""`jsplit.party.fit`: one party's part of a training by epochs, with the others over the network.

It is `jsplit.fit` of several processes: the steps are those of `run`, and what comes after an
epoch is in `epochs_of_run`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import optax

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.fitting.calling import as_callbacks, tell_end
from jsplit.fitting.class_weights import ClassWeight
from jsplit.fitting.monitor import Monitor
from jsplit.fitting.pieces import digest, is_small
from jsplit.fitting.plan import Hyperparams, as_hyperparams
from jsplit.fitting.records import Piece
from jsplit.guarding import Guard
from jsplit.party.connection.interrupts import Missing, never
from jsplit.party.connection.reach import Reach
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.epochs import VALIDATION, Epochs
from jsplit.party.contract.ids_key import IdsKey
from jsplit.party.contract.placeholders import Own
from jsplit.party.contract.record_order import Id, Records, places_of
from jsplit.party.epoch_arguments import check_columns, monitor_of, weighted_of
from jsplit.party.epoch_losses import OwnLosses
from jsplit.party.epochs_of_run import EpochsOfRun, Fitted
from jsplit.party.join import Prepared, prepare
from jsplit.party.kept_epochs import KeptEpochs
from jsplit.party.process import PartyRun
from jsplit.party.running import already_over, watched_of
from jsplit.party.steps import Training
from jsplit.party.task import Brought, Data, Ids, Task, TaskKind
from jsplit.party.validating import Validating, compile_validation
from jsplit.training.own_record import PartyRecord
from jsplit.wire.certs import Trust
from jsplit.wire.transport import Transport

_GUARD = Guard()


def fit(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Data | None = None,
    *,
    credentials: Trust,
    optimizer: optax.GradientTransformation | None = None,
    state: PartyState | Fitted | None = None,
    ids: Ids | None = None,
    ids_key: IdsKey | None = None,
    validation: Mapping[str, PyTree] | None = None,
    validation_ids: Iterable[Id] | None = None,
    class_weight: ClassWeight | None = None,
    label: str = "label",
    hyperparams: Hyperparams | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    callbacks: Sequence[object] = (),
    record: Callable[[PartyRecord], object] | None = None,
    norms: bool = False,
    folder: str | os.PathLike[str] | None = None,
    links: Mapping[str, Link] | None = None,
    backward: str = "residuals",
    kernels: str = "fast",
    stop: threading.Event | None = None,
    listen: str | None = None,
    addresses: Mapping[str, str] | None = None,
    remind: float = 5.0,
    pulse: Sequence[float] = (),
    transport: Transport | None = None,
    bound: Mapping[str, float] | None = None,
    guard: Guard | None = _GUARD,
) -> Fitted:
    """Train one party's part for some epochs, measure after each with the others, keep the best.

    All parties call it at the same time, each in its own process. How many epochs there
    are, how many records and steps, and who decides is agreed: `epochs=` of
    `jsplit.party.agreement`. After each epoch that party tells the others whether it was
    the best, and whether to end; it tells no number unless that was agreed. Everything
    goes on after any party was killed, bit for bit, when it makes the same call again.

    Where clients take turns an epoch is once round their order, as a round of
    `jsplit.rounds.take_turns` is; see `jsplit.party.epochs`.

    Args:
        agreed: what the parties have agreed on, with `epochs`.
        party: the name of this one.
        own: its segments, loss functions and metrics by name, or a topology that has them.
        data: its fields by name, [record, ...], or `batch(step)`; by client at a party
            that is always there where clients take turns, as for `jsplit.party.run`.
        credentials: its certificate and key, `jsplit.party.credentials`.
        optimizer: of its parameters, if it has any.
        state: its own part to begin with, in place of a first one: parameters,
            statistics, optimizer and strengths of it; steps are counted anew, a secret
            key is drawn anew, and what links remember begins anew. Others need not give
            one; of clients that hand over that of the first turn counts. A training that
            goes on from its `folder` has its own.
        ids: of its records, by which all bring them in one order.
        ids_key: what the digest of ids is keyed by, as for `jsplit.party.run`.
        validation: its fields of the records that all measure after each epoch, in
            inference mode and without weights, as many as agreed. Of clients that take
            turns the one whose turn ends an epoch gives them, with those always there.
        validation_ids: of these records.
        class_weight: "balanced", or a number for each class number, as for
            `jsplit.fit`; it needs an agreed `weight`, of which this is a factor.
        label: the field of class numbers, for `class_weight`.
        hyperparams: of its own optimizer, by name a function of the epoch, from 0; set
            before its first step of each, and where its turn begins.
        monitor: at the party that decides, the column of its history by which epochs
            are compared; by default "val_loss", and "loss" without validation.
        mode: likewise, whether less ("min") or more ("max") is better.
        patience: likewise, end after so many epochs without improvement.
        min_delta: likewise, what is no more than that is no improvement to `patience`.
        callbacks: as for `jsplit.fit`; `on_step` gets the `Metrics` of a step. One that
            ends the training can do so at the party that decides alone.
        record: called with the `PartyRecord` of every step, as for `jsplit.party.run`;
            a validation has none.
        norms: whether the records have the norms of this party's own gradients and
            updates, as for `jsplit.party.run`.
        folder: its own, of its checkpoints; the state after the best epoch is in
            `<folder>/best`, which `jsplit.party.evaluate` takes as a checkpoint too.
        links: links by the names that the agreement gives them.
        backward: `"residuals"` or `"recompute"`, as for `jsplit.fused`.
        kernels: `"fast"` or `"xla"`, as for `jsplit.fused`.
        stop: when set, the party ends after the step it is in.
        listen: `host:port` where it listens, if not at the address that others dial.
        addresses: `host:port` by party, where one is dialled elsewhere than agreed.
        remind: seconds of waiting after which what may have been lost is asked for again.
        pulse: seconds of silence after which a connection is asked, and lost.
        transport: what carries frames; by default gRPC.
        bound: by value, the largest norm of a record that this party takes.
        guard: over what comes back to this party, as for `jsplit.party.run`.

    Returns:
        The last state of this party's own part, the best one, and the history of what
        this party measures.

    Raises:
        ValueError: naming the argument that does not fit, or that differs from those
            with which the training in `folder` was begun.
        Refused: if the parties do not agree, or one says what it may not.
        Missing: if a party did not come, or come back, for as long as agreed.

    Example:
        >>> from jsplit import party
        >>> from jsplit.party.contract.sample import sample_agreement
        >>> me = party.PlaintextWithoutIdentity("client")
        >>> party.fit(sample_agreement(), "client", {}, credentials=me)
        Traceback (most recent call last):
        ValueError: `agreed` has no `epochs`: make it with them, or call `jsplit.party.run`.
    """
    if agreed.epochs is None:
        raise ValueError(
            "`agreed` has no `epochs`: make it with them, or call `jsplit.party.run`."
        )
    weighted = weighted_of(agreed, data, class_weight, label)
    part = Brought(own, credentials, weighted, ids, ids_key, optimizer, links)
    part = replace(part, backward=backward, kernels=kernels, checkpoint=folder)
    part = replace(part, bound=bound, guard=guard, state=_own(state))
    part = replace(part, validation=validation, validation_ids=validation_ids)
    part = replace(part, watched=watched_of(norms, False, record))
    reach = Reach(listen, addresses or {}, remind, pulse, transport)
    task = Task(TaskKind.TRAIN, agreed.steps, agreed.batch // agreed.microbatches)
    asked = never if stop is None else stop.is_set
    # In the name of the party that plays the role.
    said = replace(agreed.epochs, decides=agreed.epochs.decider(agreed.turns))
    compared = monitor_of(said, party, monitor, mode, patience, min_delta)
    given = as_hyperparams(hyperparams)
    with prepare(agreed, party, task, part) as prepared:
        losses = OwnLosses(prepared.local.topology, prepared.local.party)
        if compared is not None:
            check_columns(agreed.epochs, compared, losses, given)
        kept, told = _kept(prepared, agreed.epochs, compared), as_callbacks(callbacks)
        epochs = EpochsOfRun(said, losses, kept, compared, given, told)
        return _trained(prepared, epochs, asked, reach, record)


def _own(state: PartyState | Fitted | None) -> PartyState | None:
    return state.state if isinstance(state, Fitted) else state


def _kept(prepared: Prepared, epochs: Epochs, monitor: Monitor | None) -> KeptEpochs:
    settings = _settings(prepared, epochs, monitor)
    return KeptEpochs(prepared.store, prepared.agreed.schema, settings)


def _settings(
    prepared: Prepared, epochs: Epochs, monitor: Monitor | None
) -> dict[str, object]:
    """What must be the same when the training goes on, by argument."""
    agreed, records = prepared.agreed, dict(prepared.records)
    validation = records.pop(VALIDATION, None)
    data = {c: _digest_of(own, agreed, agreed.steps) for c, own in records.items()}
    found: dict[str, object] = {
        "epochs": [epochs.steps, epochs.validation, epochs.decides, epochs.tells],
        "data": data if agreed.rotation is not None else [*data.values()][0],
        "validation": validation and _digest_of(validation, agreed, 0),
    }
    return found | ({} if monitor is None else monitor.settings)


def _digest_of(records: Records, agreed: Agreement, steps: int) -> str | None:
    """A digest of what a party reads, of many records of the first; `None` of nothing."""
    if records.batches is not None:
        return digest(Piece(records.given(0)))
    if not records.fields:
        return None
    count, size = records.count or 0, agreed.batch
    # In the shared order: the same records in another one are the same training.
    everything = np.arange(count)
    if is_small(records.fields):
        return digest(Piece(records.take(everything)))
    places = places_of(0, count, size, agreed.seed) if steps else everything[:size]
    return digest(Piece(records.take(places)))


def _trained(
    prepared: Prepared,
    epochs: EpochsOfRun,
    asked: Callable[[], bool],
    reach: Reach,
    record: Callable[[PartyRecord], object] | None,
) -> Fitted:
    """Train, and give what there is in the end."""
    frames = prepared.frames.epochs
    assert frames is not None
    end = epochs.end(prepared.agreed.steps)
    try:
        epochs.tell("on_start", epochs.now.history)
        awaited = prepared.store.done(end)
        if awaited is not None:
            over = already_over(prepared, end, awaited, asked, reach)
            return epochs.fitted(over.state, interrupted=False)
        records = prepared.records.get(VALIDATION)
        prepared.incoming.epochs = frames
        with prepared.connected(reach) as me:
            epochs.over(me, Validating(me, frames, records))
            if records is not None:
                first = _first_of(records)
                compile_validation(frames, me.warming, first, asked)
            trained = Training(me, None, asked, record, prepared.guard, epochs=epochs)
            try:
                result = trained.run()
            except Missing as error:
                raise _of_two_verdicts(error, me, frames.decider) from error
        return epochs.fitted(result.state, interrupted=result.stopped)
    finally:
        tell_end(epochs.callbacks, epochs.now.history)


def _first_of(records: Records) -> dict[str, PyTree]:
    return records.take(np.arange(1)) if records.fields else {}


def _of_two_verdicts(error: Missing, me: PartyRun, decides: str) -> Exception:
    """What it means that somebody has left as after the end, while this party goes on."""
    done = [me.agreed.parties[peer] for peer in sorted(me.network.member.done)]
    if not done:
        return error
    # It is told to those who are left, who wait for this party.
    return me.network.refuse(
        f"`{done[0]}` has left as at the end of the training, of which `{decides}` has "
        f"told `{me.party}` nothing: it gave them two verdicts. {error}"
    )
