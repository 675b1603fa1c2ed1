"""What a loop is to do, with all that was asked for checked and made alike: the `Plan`.

Trainers and algorithms over clients differ here, and nowhere after: in how they step, how they
measure, and what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias, cast

import jax
from jax.typing import ArrayLike

from jsplit.core.base import Fields, TrainState
from jsplit.core.checks import shown
from jsplit.core.federation import Federation
from jsplit.core.trainer import Trainer
from jsplit.fitting.arrays import as_batches
from jsplit.fitting.client_rounds import on_device, validation_round
from jsplit.fitting.monitor import Monitor
from jsplit.fitting.pieces import Given, Source, digest, digest_of_all, stream
from jsplit.fitting.records import Piece, State, Told
from jsplit.fitting.saved import Checkpoints
from jsplit.populations.round import Round
from jsplit.rounds.algorithm import Algorithm
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.record import RecordingTrainer

Trains: TypeAlias = Trainer | RecordingTrainer | Algorithm
"""What trains: of one client, or of many."""

Hyperparams = Mapping[str, Callable[[int], ArrayLike]]
"""By name, a hyperparameter as a function of the epoch."""


class Plan(NamedTuple):
    """What a loop is to do.

    Attributes:
        trains: what trains.
        topology: that it trains.
        source: what is read in each epoch.
        evaluate: measures a state on the validation data; `None` without any.
        epochs: how many.
        monitor: by what they are compared.
        hyperparams: set at the start of each.
        callbacks: what is told.
        checkpoints: where it is kept; `None`: nowhere.
        every: steps after which it is kept, beside each end of an epoch; `None`: only
            then.
        donates: whether a step uses up its state.
    """

    trains: Trains
    topology: Topology
    source: Source
    evaluate: Callable[[State, int], Told] | None
    epochs: int
    monitor: Monitor
    hyperparams: Hyperparams
    callbacks: Sequence[object]
    checkpoints: Checkpoints | None
    every: int | None
    donates: bool

    def step(self, state: State, piece: Piece) -> tuple[State, object]:
        """Train on what one step reads."""
        if isinstance(self.trains, Algorithm):
            federation = cast(Federation, state)
            return self.trains.step(federation, cast(Round, piece.batch))
        batch = cast(Fields, piece.batch)
        return self.trains.step(cast(TrainState, state), batch, piece.weight)

    def first_state(self, key: jax.Array | int) -> State:
        """The state from which a training starts."""
        batch = self.source.first().batch
        if isinstance(self.trains, Algorithm):
            return self.trains.init(key, cast(Round, batch))
        return self.trains.init(key, cast(Fields, batch))


def as_hyperparams(given: Hyperparams | None) -> Hyperparams:
    """Hyperparameters by epoch, checked.

    Raises:
        ValueError: if they are no functions by name.
    """
    if given is None:
        return {}
    named: object = given
    wrong = [named]
    if isinstance(named, Mapping):
        wrong = [
            x for x in cast("Mapping[str, object]", named).values() if not callable(x)
        ]
    if wrong:
        raise ValueError(
            f"`hyperparams` must be functions of the epoch by name, got {shown(wrong[0])}; "
            "`lambda epoch: 0.1` is one that stays."
        )
    return dict(given)


def config_of(trains: object) -> Config:
    """The configuration of what trains.

    Raises:
        ValueError: if it is neither a trainer nor an algorithm.
    """
    config = getattr(trains, "config", None)
    if not isinstance(trains, Trainer | RecordingTrainer | Algorithm) or not isinstance(
        config, Config
    ):
        raise ValueError(
            "`trainer` must be a trainer, as of jsplit.fused or jsplit.messages, or an "
            f"algorithm of jsplit.rounds, got {shown(trains)}."
        )
    return config


def check_kind(trains: Trains, piece: Piece, name: str) -> None:
    """Refuse rounds for a trainer, and batches for an algorithm.

    Raises:
        ValueError: saying which it needs.
    """
    if isinstance(trains, Algorithm) == isinstance(piece.batch, Round):
        return
    needs = "a batch, and it is a round of a population"
    if isinstance(trains, Algorithm):
        needs = "a round of a population, and it is a batch"
    raise ValueError(f"`{name}` must give what the step of `trainer` takes: {needs}.")


def measuring(
    trains: Trains, validation: Given | None, batch: int
) -> Callable[[State, int], Told] | None:
    """`evaluate` of a state in an epoch on validation data.

    Args:
        trains: what trains.
        validation: arrays, an iterable of batches, or a function of the epoch; of an
            algorithm arrays, a round, or a function.
        batch: records that are measured at a time, of arrays.

    Raises:
        ValueError: if it cannot be read.
    """
    if validation is None:
        return None
    if isinstance(trains, Algorithm):
        return _of_clients(trains, validation, batch)
    if isinstance(validation, Mapping):
        source = Source(
            as_batches(cast(Fields, validation), None, batch, "keep", None).pieces
        )
    else:
        source = stream("validation", validation)
    check_kind(trains, source.first(), "validation")

    def evaluate(state: State, epoch: int) -> Told:
        pieces = _some((read() for read in source.pieces(epoch)), epoch)
        # A batch alone, where nothing is weighted: pairs without weights are none.
        given = (
            cast(Fields, p.batch)
            if p.weight is None
            else (cast(Fields, p.batch), p.weight)
            for p in pieces
        )
        return trains.evaluate(cast(TrainState, state), given)

    return evaluate


def told_apart(validation: Given | None, batch: int) -> str | None:
    """Whether there is validation data, and of arrays or a round which."""
    if validation is None:
        return None
    if isinstance(validation, Round):
        return digest(Piece(validation))
    if not isinstance(validation, Mapping):
        return "given"
    batches = as_batches(cast(Fields, validation), None, batch, "keep", None)
    found = digest_of_all(batches.fields, next(batches.pieces(0))())
    return f"{batches.records} {found}"


def _some(pieces: Iterator[Piece], epoch: int) -> Iterator[Piece]:
    """The pieces of a validation, of which there must be one."""
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"`validation` gives no batch in epoch {epoch}.")
    return chain([first], pieces)


def _of_clients(
    algorithm: Algorithm, validation: Given, batch: int
) -> Callable[[State, int], Told]:
    if isinstance(validation, Mapping):
        fields = on_device(cast(Fields, validation))

        def evaluate(state: State, epoch: int) -> Told:
            federation = cast(Federation, state)
            return algorithm.evaluate(
                federation, validation_round(federation, fields, batch)
            )

        return evaluate
    source = stream("validation", validation)
    check_kind(algorithm, source.first(), "validation")

    def evaluate_round(state: State, epoch: int) -> Told:
        rounds = [cast(Round, read().batch) for read in source.pieces(epoch)]
        if len(rounds) != 1:
            raise ValueError(
                f"`validation` must be one round, got {len(rounds)} in epoch {epoch}."
            )
        return algorithm.evaluate(cast(Federation, state), rounds[0])

    return evaluate_round
