"""`jsplit.fit`: from its arguments to a plan, from a checkpoint to where it goes on.

What happens then is in `loop`. Whoever wants another loop writes one: `step` stays the way in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import jax

from jsplit.core.base import PyTree, TrainState
from jsplit.core.checks import as_positive_int, one_of, shown
from jsplit.core.federation import Federation
from jsplit.fitting.asked import Asked
from jsplit.fitting.calling import as_callbacks
from jsplit.fitting.class_weights import ClassWeight
from jsplit.fitting.history import History
from jsplit.fitting.loop import run
from jsplit.fitting.monitor import as_monitor
from jsplit.fitting.pieces import Given
from jsplit.fitting.plan import (
    Hyperparams,
    Plan,
    Trains,
    as_hyperparams,
    config_of,
    measuring,
    told_apart,
)
from jsplit.fitting.records import Fitted
from jsplit.fitting.saved import Checkpoints
from jsplit.fitting.tally import check_column
from jsplit.populations.population import Population


def fit(
    trainer: Trains,
    data: Given,
    *,
    epochs: int,
    batch: int | None = None,
    key: jax.Array | int = 0,
    state: TrainState | Federation | Fitted | None = None,
    validation: Given | None = None,
    population: Population | None = None,
    shuffle: bool = True,
    last: str = "keep",
    weight: PyTree = None,
    class_weight: ClassWeight | None = None,
    label: str = "label",
    hyperparams: Hyperparams | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    callbacks: Sequence[object] = (),
    folder: str | os.PathLike[str] | None = None,
    every: int | None = None,
    resume: bool = True,
) -> Fitted:
    """Train for some epochs, measure after each, and keep the best.

    Every step is `trainer.step`, so the numbers are those of a loop of one's own. Who
    reads what in which step is a function of `key` and the epoch. With a `folder` a
    training whose process was killed goes on when the same call is made again, and its
    parameters and history are then those of one that was never killed, bit for bit.

    Ctrl-C ends it after the step, and gives what there is; a second one ends it at once.

    Args:
        trainer: of `jsplit.fused` or `jsplit.messages`, or an algorithm of
            `jsplit.rounds`, of which an epoch is a round.
        data: fields by name, [records, ...], of which batches are made; or an iterable
            of batches (fields by name, or pairs (fields, weight)) that can be read again
            in each epoch, or `data(epoch)` that gives one. Of an algorithm: fields with
            a `population`, or `data(epoch)` that gives the round.
        epochs: how many in all, with those that are done where a training goes on.
        batch: records of a step, of arrays; 32 by default.
        key: a PRNG key or an integer: of the first parameters, and of the order of
            records (of an algorithm that is its population's).
        state: to start from, in place of `trainer.init(key, ...)`; or what an earlier
            call gave, to go on from there.
        validation: as `data`, measured after each epoch in inference mode and without
            weights; of an algorithm fields, or a round. With fields every record is
            measured once, or by each client where they have models of their own.
        population: of an algorithm, who has which records.
        shuffle: whether records are read in a new order in each epoch, of arrays.
        last: what becomes of a last batch of an epoch that is not full, of arrays:
            "keep" trains on it as it is, each example counting as in any other batch of
            its size; "pad" fills it up with examples of weight 0, which saves a second
            compilation; "drop" leaves it out.
        weight: how much each record counts, of arrays, [records] or [records, time].
        class_weight: "balanced", so that all classes count alike, or a number for each
            class number; a factor of the records' `weight`. In a batch the mean is over
            these weights, as with `weight=` of PyTorch's losses.
        label: the field of class numbers, for `class_weight`.
        hyperparams: by name, a function of the epoch, from 0, that gives what
            `jsplit.set_hyperparams` sets before it: `{"learning_rate": schedule}` of an
            optimizer of `optax.inject_hyperparams`, by epoch or by round.
        monitor: the column of the history by which epochs are compared; by default
            "val_loss", and "loss" without `validation`.
        mode: whether less ("min") or more ("max") of it is better; to be given where
            it is not one of these two.
        patience: end after so many epochs without improvement; by default never.
        min_delta: what is no more than that is no improvement to `patience`.
        callbacks: each a `jsplit.fitting.Callback`, or a function of an
            `jsplit.fitting.Epoch`, which ends the training if it returns `True`.
        folder: where it is kept after each epoch: states of `jsplit.save` at
            `<folder>/last` and `<folder>/best`, and the history.
        every: keep it after so many steps too, so that less is lost.
        resume: whether a training that is in `folder` goes on; `False` starts anew and
            replaces it.

    Returns:
        The last state, the best one, and the history.

    Raises:
        ValueError: naming the argument that does not fit, or that differs from those
            with which the training in `folder` was begun; or if another training is in it.
        OSError: if `folder` cannot be written; before a step is taken, where that shows.
        NotFinite: if a step leaves what is not finite, and the trainer refuses that.

    Example:
        >>> import jsplit, numpy as np, optax
        >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
        >>> server = jsplit.segment(
        ...     lambda w, h: h @ w, init=lambda key, h: np.zeros(3, "f"), inputs=["h"]
        ... )
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.02))
        >>> x = np.random.default_rng(0).normal(size=(10, 3)).astype("f")
        >>> data = {"x": x, "label": (x**2).sum(1)}
        >>> state, best, history = jsplit.fit(trainer, data, epochs=5, batch=4)
        >>> len(history), history.steps, history.best
        (5, 15, 4)
        >>> bool(history["loss"][-1] < history["loss"][0])
        True
    """
    config = config_of(trainer)
    asked = Asked(batch, key, population, shuffle, last, weight, class_weight, label)
    source = asked.source(trainer, data)
    compared = as_monitor(monitor, mode, patience, min_delta, validation is not None)
    set_by_epoch = as_hyperparams(hyperparams)
    check_column(compared, config.topology, validation is not None, {*set_by_epoch})
    one_of("resume", resume, (True, False))
    settings = {**asked.settings, **source.settings, **compared.settings}
    settings["validation"] = told_apart(validation, asked.size)
    plan = Plan(
        trainer,
        config.topology,
        source,
        measuring(trainer, validation, asked.size),
        as_positive_int("epochs", epochs),
        compared,
        set_by_epoch,
        as_callbacks(callbacks),
        _checkpoints(folder, every, settings),
        every,
        config.donate,
    )
    # Before a step is taken, and until the last is: a folder is of one training.
    with nullcontext() if plan.checkpoints is None else plan.checkpoints.held():
        return run(plan, _begun(plan, key, state, resume))


def _checkpoints(
    folder: str | os.PathLike[str] | None,
    every: int | None,
    settings: dict[str, object],
) -> Checkpoints | None:
    if every is not None:
        as_positive_int("every", every)
    if folder is not None:
        return Checkpoints(folder, settings)
    if every is not None:
        raise ValueError("`every` says when a `folder` is written, and there is none.")
    return None


def _begun(
    plan: Plan,
    key: jax.Array | int,
    state: TrainState | Federation | Fitted | None,
    resume: bool,
) -> Fitted:
    """Where a training starts, or goes on."""
    wanted = History(monitor=plan.monitor.column)
    if state is None:
        first = plan.first_state(key)
        begun = Fitted(first, first, wanted)
    elif isinstance(state, Fitted):
        begun = state._replace(history=replace(state.history, stopped=""))
        if state.history.monitor != wanted.monitor:
            raise ValueError(
                f"`state` is of a training with `monitor` `{state.history.monitor}`, and "
                f"now it is `{wanted.monitor}`."
            )
    elif isinstance(state, TrainState | Federation):
        begun = Fitted(state, state, wanted)
    else:
        raise ValueError(
            "`state` must be that of a trainer or an algorithm, or what jsplit.fit gave, "
            f"got {shown(state)}."
        )
    if plan.checkpoints is None:
        return begun
    if not resume:
        plan.checkpoints.forget()
        return begun
    return plan.checkpoints.read(begun.state) or begun
