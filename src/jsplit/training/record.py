"""`record`: a trainer of which each step tells what crossed, beside what it tells anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from jax.typing import ArrayLike

from jsplit.core.base import Fields, TrainState
from jsplit.core.trainer import EvaluateFn, InitFn, PredictFn, Trainer
from jsplit.training.config import Config
from jsplit.training.recording import Recorded


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


def record(trainer: Trainer, *, gradients: bool = False) -> RecordingTrainer:
    """Make the trainer whose step also gives all that crossed between parties.

    It trains as the plain one: `messages` to the bit, as long as no gradients are asked
    for; else to rounding, since XLA compiles another program. Its step is as pure, so
    it runs in `jax.jit`, `jax.lax.scan` and `jax.vmap` where the plain one does. The
    plain trainer is not changed, and costs what it did.

    With several micro-batches each sends a message of its own. `value` is then that of
    the whole batch, in its order: activations one after the other, cotangents divided
    by the number of micro-batches too, so that they are those of the mean over the
    batch; `payload` is what truly crossed, with an axis of micro-batches. Under a
    `loss_scale` cotangents are recorded as they cross, with the scale in them;
    gradients are without. In the row of an example of weight 0 stands what crossed: the
    values of another one.

    Args:
        trainer: of `jsplit.fused` or `jsplit.messages`, as these make it.
        gradients: whether the gradients that each party's optimizer is given are
            recorded too.

    Returns:
        A `RecordingTrainer`: `step(state, batch) -> (state, Recorded)`.

    Raises:
        ValueError: if `trainer` is none of these, has had its step replaced, or records
            already; or if it is an algorithm over clients, whose rounds are one program:
            record its trainer, and train one client with that.

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
    """
    remake, config = _recordable(trainer)
    records = ("crossed", "gradients") if gradients else ("crossed",)
    made = remake(config._replace(records=records))
    # With `records` its step gives a `Recorded`, which a `Trainer` has no type for.
    step = cast(RecordedStepFn, made.step)
    return RecordingTrainer(made.init, step, made.evaluate, made.predict, made.config)


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
    over_clients = (
        ": a round over clients is one program, and what crosses within it is not kept; "
        "record its trainer, and train one client with that"
    )
    # Only an algorithm of rounds says what clients share.
    hint = over_clients if hasattr(trainer, "sharing") else ""
    return ValueError(
        "`trainer` must be one of jsplit.fused or jsplit.messages, got "
        f"{type(trainer).__name__}{hint}."
    )


def refuse_recording(trainer: object) -> None:
    """Refuse a trainer that records where its step is part of a larger program.

    Raises:
        ValueError: if it records.
    """
    config = getattr(trainer, "config", None)
    if isinstance(config, Config) and config.records:
        raise ValueError(
            "`trainer` records what crosses, which rounds over clients do not keep; give "
            "the plain trainer, or train one client with this one."
        )
