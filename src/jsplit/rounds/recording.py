"""What crossed in the steps of a round, by client and step, as a part of what the round tells.

A round takes as many steps as its clients have batches, which is known when it runs. So what
a step tells is written to its place in arrays of the most steps there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, PyTree, TrainState
from jsplit.core.trainer import Trainer
from jsplit.training.config import Config
from jsplit.training.kinds import WireKind
from jsplit.training.record import recorded
from jsplit.training.recording import Crossed, Passage, Recorded
from jsplit.training.step_numbers import Norms

_Now = TypeVar("_Now")


class Told(NamedTuple):
    """What a step tells beside its info, in a round that is recorded."""

    crossed: Mapping[Passage, Crossed]
    gradients: Mapping[str, Mapping[str, PyTree]]
    norms: Mapping[str, Norms]
    hyperparams: Mapping[str, Mapping[str, jax.Array]]


class RecordedRound(NamedTuple):
    """What crossed in the steps of a round, by client and step: `RoundInfo.recorded`.

    K clients take part, and S is the most steps that a client of the round
    may take. Of several rounds, as `run` tells, each array has an axis
    [rounds] before these.

    Attributes:
        client: the number of each client in its population, int32 [K].
        step: the number of each step, by which randomness is numbered, int32
            [K, S].
        taken: whether the client took that step, bool [K, S]. Where it did
            not, all that is recorded is 0.
        reads: which records of the round's fields were read, int32 [K, S, B].
        weight: how much each counted, float32 [K, S, B]; 0 in a step that was
            not taken. In the row of a record of weight 0 crossed another one.
        crossed: by message, a `jsplit.Passage`, what crossed, [K, S, ...].
        gradients: by party and node, what each optimizer was given, [K, S,
            ...]; empty unless asked for. Where clients step together, what a
            party has once is repeated for each client.
        norms: by party, the `jsplit.Norms` of each step, [K, S]; empty unless asked
            for.
        hyperparams: by party and name, those that each step used, [K, S]; empty unless
            asked for.

    Example:
        >>> from jsplit.rounds import RecordedRound
        >>> RecordedRound._fields[:5]
        ('client', 'step', 'taken', 'reads', 'weight')
    """

    client: jax.Array
    step: jax.Array
    taken: jax.Array
    reads: jax.Array
    weight: jax.Array
    crossed: Mapping[Passage, Crossed]
    gradients: Mapping[str, Mapping[str, PyTree]] = {}
    norms: Mapping[str, Norms] = {}
    hyperparams: Mapping[str, Mapping[str, jax.Array]] = {}


TellingStep = Callable[
    [TrainState, Fields, ArrayLike | None], tuple[TrainState, Info, Told | None]
]
"""`step(state, batch, weight) -> (state, info, told)`; `told` is `None` if nothing is recorded."""


def telling(trainer: Trainer, records: tuple[str, ...]) -> TellingStep:
    """Make a step that tells what it records beside its info.

    Args:
        trainer: the plain one.
        records: what is recorded, as `Config.records`.

    Raises:
        ValueError: as `jsplit.record` of the trainer does.
    """
    if not records:

        def plain(
            state: TrainState, batch: Fields, weight: ArrayLike | None
        ) -> tuple[TrainState, Info, None]:
            return (*trainer.step(state, batch, weight), None)

        return plain
    recording = recorded(trainer, records)

    def step(
        state: TrainState, batch: Fields, weight: ArrayLike | None
    ) -> tuple[TrainState, Info, Told]:
        state, told = recording.step(state, batch, weight)
        rest = told.crossed, told.gradients, told.norms, told.hyperparams
        return state, told.info, Told(*rest)

    return step


def told_of_each(
    config: Config, clients: Collection[str], own: bool, count: int, told: Recorded
) -> Told:
    """Divide what one step of all clients tells among them, [count, ...].

    Args:
        config: of one client's topology.
        clients: the parties that a client is made of.
        own: whether each client has parameters of its own.
        count: how many clients there are.
        told: of the step on the batch of all, [count * batch, ...].
    """

    def divide(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)

    def repeat(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.repeat(x[None], count, 0), tree)

    crossed: dict[Passage, Crossed] = {}
    for at, (payload, value) in told.crossed.items():
        kind, name = at[:2]
        if kind == WireKind.SCALAR:
            # One number of each party, whoever the clients are.
            crossed[at] = Crossed(repeat(payload), repeat(value))
            continue
        # A link makes a payload of each client's part alone.
        linked = any((str(k), n) == (kind, name) for k, n in config.links)
        crossed[at] = Crossed(payload if linked else divide(payload), divide(value))

    def of_each(by_party: Mapping[str, PyTree]) -> dict[str, PyTree]:
        return {
            party: found if own and party in clients else repeat(found)
            for party, found in by_party.items()
        }

    kept = told.gradients, told.norms, told.hyperparams
    return Told(crossed, *map(of_each, kept))


def loop(
    step: Callable[[jax.Array, _Now], tuple[_Now, Told | None]],
    now: _Now,
    count: jax.Array,
    most: int | None,
) -> tuple[_Now, Told | None]:
    """Run steps, and keep what they tell.

    Args:
        step: gives what is after a step, and what that step tells.
        now: what is before the first.
        count: how many steps are run.
        most: how many there can be; `None`: nothing is recorded.

    Returns:
        What is after the last, and what all have told, [most, ...].
    """
    tape = None
    if most is not None:
        # Only shapes are looked at.
        told = jax.eval_shape(lambda: step(jnp.int32(0), now)[1])
        tape = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), told)

    def one(s: jax.Array, before: tuple[_Now, Told | None]) -> tuple[_Now, Told | None]:
        after, told = step(s, before[0])
        return after, jax.tree.map(lambda x, y: x.at[s].set(y), before[1], told)

    return jax.lax.fori_loop(0, count, one, (now, tape))


def only_live(live: jax.Array, told: PyTree) -> PyTree:
    """Return what clients tell, [K, ...] or of one, with zeros of those that took no step."""

    def one(x: jax.Array) -> jax.Array:
        rows = live.reshape(*live.shape, *[1] * (x.ndim - live.ndim))
        return jnp.where(rows, x, jnp.zeros_like(x))

    return jax.tree.map(one, told)


def by_client(tape: PyTree) -> PyTree:
    """Return a tape of several clients, [S, K, ...], as [K, S, ...]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), tape)


def recorded_round(
    client: jax.Array,
    reads: jax.Array,
    weight: jax.Array,
    step: jax.Array,
    taken: jax.Array,
    tape: Told,
) -> RecordedRound:
    """Return the record of a round, from its arrays and what its steps have told.

    Args:
        client: [K].
        reads: [K, S, B].
        weight: [K, S, B], or of entries of records; of these the mean is told.
        step: the numbers of the steps, [K, S].
        taken: [K, S].
        tape: [K, S, ...].
    """
    if weight.ndim > reads.ndim:
        weight = weight.mean(tuple(range(reads.ndim, weight.ndim)))
    counted = jnp.where(taken[..., None], weight, 0)
    return RecordedRound(client, step, taken, reads, counted, *tape)
