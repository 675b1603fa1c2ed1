"""`record`: a trainer of which each step tells what crossed, beside what it tells anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, cast, overload

from jax.typing import ArrayLike

from jsplit.core.base import Fields, TrainState
from jsplit.core.trainer import EvaluateFn, InitFn, PredictFn, Trainer
from jsplit.training.config import Config
from jsplit.training.recording import Recorded
from jsplit.training.step_numbers import (
    CROSSED,
    GRADIENTS,
    HYPERPARAMS,
    NORMS,
    SECONDS,
    no_seconds,
)


class RecordedStepFn(Protocol):
    """The form of the step of a trainer that records."""

    def __call__(
        self, state: TrainState, batch: Fields, weight: ArrayLike | None = None
    ) -> tuple[TrainState, Recorded]: ...


class RecordingTrainer(NamedTuple):
    """A `Trainer` whose step tells what crossed; `jsplit.record` makes one.

    Attributes:
        init: as that of the plain trainer.
        step: `step(state, batch, weight=None) -> (state, recorded)`, with a `Recorded`
            in the place of the `Info`, which is its `info`.
        evaluate: as that of the plain trainer; what crosses in inference is
            `predict(..., at=...)`.
        predict: as that of the plain trainer.
        config: what the trainer was asked for.

    Example:
        >>> import jsplit
        >>> jsplit.RecordingTrainer._fields
        ('init', 'step', 'evaluate', 'predict', 'config')
    """

    init: InitFn
    step: RecordedStepFn
    evaluate: EvaluateFn
    predict: PredictFn
    config: object = None


_Recording = TypeVar("_Recording", covariant=True)


class RecordableRounds(Protocol[_Recording]):
    """An algorithm over clients, as `record` asks it for the same with a record."""

    @property
    def step(self) -> Callable[..., object]:
        """Trains a round."""
        ...

    @property
    def run(self) -> Callable[..., object]:
        """Trains several."""
        ...

    @property
    def recording(self) -> Callable[[tuple[str, ...]], _Recording] | None:
        """Makes it anew; `None` if it records already, or was made by hand."""
        ...


@overload
def record(
    trainer: Trainer,
    *,
    gradients: bool = False,
    crossed: bool = True,
    norms: bool = False,
    hyperparams: bool = False,
    seconds: bool = False,
) -> RecordingTrainer: ...
@overload
def record(
    trainer: RecordableRounds[_Recording],
    *,
    gradients: bool = False,
    crossed: bool = True,
    norms: bool = False,
    hyperparams: bool = False,
    seconds: bool = False,
) -> _Recording: ...
def record(
    trainer: Trainer | RecordableRounds[_Recording],
    *,
    gradients: bool = False,
    crossed: bool = True,
    norms: bool = False,
    hyperparams: bool = False,
    seconds: bool = False,
) -> RecordingTrainer | _Recording:
    """Make the trainer whose step also tells what crossed, and numbers to watch it by.

    It trains as the plain one: `messages` to the bit, as long as neither gradients nor
    norms are asked for; else to rounding, since XLA compiles another program, which on
    a CPU has given the same bits in all that the tests try. Its step is as pure, so it
    runs in `jax.jit`, `jax.lax.scan` and `jax.vmap` where the plain one does. The plain
    trainer is not changed, and costs what it did.

    To watch a long training in a loop of JAX, leave out what crossed, which is large:
    `jsplit.record(trainer, crossed=False, norms=True, hyperparams=True)`.

    With several micro-batches each sends a message of its own. `value` is then that of
    the whole batch, in its order: activations one after the other, cotangents divided
    by the number of micro-batches too, so that they are those of the mean over the
    batch; `payload` is what truly crossed, with an axis of micro-batches. Under a
    `loss_scale` cotangents are recorded as they cross, with the scale in them;
    gradients are without. In the row of an example of weight 0 stands what crossed: the
    values of another one.

    An algorithm over clients becomes one whose `info.recorded` has what crossed in
    every step of every client, a `jsplit.rounds.RecordedRound`, from `step` and from
    `run`. It trains as the plain one to rounding. All that crosses in a round is in
    memory at its end, so let a round be short.

    Args:
        trainer: of `jsplit.fused` or `jsplit.messages`, as these make it, or an
            algorithm of `jsplit.rounds`.
        gradients: whether the gradients that each party's optimizer is given are
            recorded too.
        crossed: whether all that crosses is recorded.
        norms: whether the norms of each party's gradients, and of what its optimizer
            adds to its parameters, are recorded by node. A step that is left out
            (`nonfinite="skip"`) adds 0.
        hyperparams: whether learning rates, and what else `optax.inject_hyperparams`
            keeps in a state, are recorded as the step used them. Where an optimizer has
            none, there are none; if no party's has any, a warning says so.
        seconds: whether it is measured how long the programs of each party run, each
            until its results are there. So parties no longer overlap, and the step
            takes longer. In the first step of a shape compilation is part of it. For
            `jsplit.messages` alone, and not within a program of your own: else parties
            are one program, and no clock can tell them apart. Over a network each party
            has its own in the `jsplit.party.Metrics` of each step.

    Returns:
        A `RecordingTrainer`: `step(state, batch) -> (state, Recorded)`; or an algorithm.

    Raises:
        ValueError: if `trainer` is none of these, has had its step replaced, or records
            already; if nothing is to be recorded, or seconds of what is one program.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs=["x"]
        ... )
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.record(jsplit.fused(topology, optax.sgd(0.1)))
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state, recorded = trainer.step(trainer.init(0, batch), batch)
        >>> for passage, crossed in recorded.crossed.items():
        ...     print(passage, crossed.value.shape)
        activation smashed: client -> server (4, 3)
        cotangent smashed: server -> client (4, 3)

        >>> plain = jsplit.fused(topology, optax.sgd(0.1))
        >>> watching = jsplit.record(plain, crossed=False, norms=True)
        >>> state, told = watching.step(state, batch)
        >>> sorted(told.norms["client"].update), told.crossed
        (['smashed'], {})
    """
    wanted = {
        CROSSED: crossed,
        GRADIENTS: gradients,
        NORMS: norms,
        HYPERPARAMS: hyperparams,
        SECONDS: seconds,
    }
    return recorded(trainer, tuple(name for name, asked in wanted.items() if asked))


@overload
def recorded(trainer: Trainer, records: tuple[str, ...]) -> RecordingTrainer: ...
@overload
def recorded(
    trainer: RecordableRounds[_Recording], records: tuple[str, ...]
) -> _Recording: ...
def recorded(
    trainer: Trainer | RecordableRounds[_Recording], records: tuple[str, ...]
) -> RecordingTrainer | _Recording:
    """Make what `record` makes, from the names of what is recorded, as `Config.records`."""
    if not records:
        raise ValueError(
            "nothing is to be recorded: leave `crossed` as it is, or ask for `norms`, "
            "`hyperparams`, `gradients` or `seconds`."
        )
    if not isinstance(trainer, Trainer) and hasattr(trainer, "recording"):
        return _recording_rounds(trainer, records)
    remake, config = _recordable(trainer)
    made = remake(config._replace(records=records))
    # With `records` its step gives a `Recorded`, which a `Trainer` has no type for.
    step = cast(RecordedStepFn, made.step)
    return RecordingTrainer(made.init, step, made.evaluate, made.predict, made.config)


def _recording_rounds(
    algorithm: RecordableRounds[_Recording], records: tuple[str, ...]
) -> _Recording:
    """The same algorithm over clients with a record; refuses what cannot be made anew."""
    make = algorithm.recording
    if make is None:
        if _records(algorithm):
            raise ValueError("`trainer` records already; give the plain one.")
        raise _no_trainer(algorithm)
    if SECONDS in records:
        raise no_seconds("a round")
    made = make(records)
    for name in ("step", "run"):
        # As below: methods and closures of one function share their code.
        mine, its = getattr(algorithm, name), getattr(made, name)
        if getattr(mine, "__code__", None) is not getattr(its, "__code__", None):
            raise ValueError(
                f"`trainer` has another `{name}` than jsplit.rounds gave it; record the "
                f"plain algorithm, and replace the `{name}` of that."
            )
    return made


def _records(trainer: object) -> bool:
    config = getattr(trainer, "config", None)
    return isinstance(config, Config) and bool(config.records)


def _recordable(trainer: object) -> tuple[Callable[..., Trainer], Config]:
    """What makes a trainer anew, and its configuration; refuses what cannot be made so."""
    if isinstance(trainer, RecordingTrainer):
        raise ValueError("`trainer` records already; give the plain one.")
    if not isinstance(trainer, Trainer):
        raise _no_trainer(trainer)
    remake, config = trainer.remake, trainer.config
    if remake is None or not isinstance(config, Config):
        raise _no_trainer(trainer)
    # A step of the user's own around it would be lost in silence. Closures of one
    # function share their code.
    plain = getattr(remake(config).step, "__code__", None)
    if plain is None or getattr(trainer.step, "__code__", None) is not plain:
        raise ValueError(
            "`trainer` has another step than jsplit.fused or jsplit.messages gave it; "
            "record the plain trainer, and replace the step of that."
        )
    return remake, config


def _no_trainer(trainer: object) -> ValueError:
    return ValueError(
        "`trainer` must be one of jsplit.fused or jsplit.messages, or an algorithm that "
        f"jsplit.rounds made of one, got {type(trainer).__name__}."
    )


def refuse_recording(trainer: object) -> None:
    """Refuse a trainer that records where its step is part of a larger program.

    Raises:
        ValueError: if it records.
    """
    if _records(trainer):
        raise ValueError(
            "`trainer` records what crosses: give the plain trainer, and record what is "
            "made of it, `jsplit.record(jsplit.rounds.parallel(...))`."
        )
