"""Recorded steps one by one, in whichever form they were told: of a trainer, a round, a network.

A trainer tells a step, or several as a scan stacks them; a round tells those of all its clients
at once; over a network each party has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Fields
from jsplit.core.checks import shown
from jsplit.rounds.recording import RecordedRound
from jsplit.training.own_record import PartyRecord
from jsplit.training.recording import Crossed, Passage, Recorded

OneRecord: TypeAlias = Recorded | RecordedRound | PartyRecord
"""What `jsplit.record` or `jsplit.party.run(record=...)` tells of a step, or of a round."""


class StepRecord(NamedTuple):
    """One step that was recorded.

    Attributes:
        crossed: by message, what crossed.
        number: of the step, where it was told.
        weight: how much each example counted, [batch], where it was told.
        fields: those of the party that recorded it, where it did.
        party: over a network, which recorded it.
        reads: of a round, the numbers of the records that were read, [batch].
    """

    crossed: Mapping[Passage, Crossed]
    number: int | None = None
    weight: ArrayLike | None = None
    fields: Fields | None = None
    reads: np.ndarray | None = None
    party: str | None = None


def steps_of(
    recorded: OneRecord | Sequence[OneRecord], client: int | None = None
) -> list[StepRecord]:
    """Give records of steps, one by one.

    Args:
        recorded: of one step or round, or of several: a list, or along an axis.
        client: of rounds, whose steps; by default those of all clients, in the order
            of their numbers.

    Raises:
        ValueError: if it is none of these, holds no step, or `client` does not fit.
    """
    told: list[object] = [recorded]
    # A record is a tuple itself, so it is asked for first.
    kinds = (Recorded, RecordedRound, PartyRecord)
    if not isinstance(recorded, kinds) and isinstance(recorded, (list, tuple)):
        told = list(recorded)
    if not told or not all(isinstance(r, kinds) for r in told):
        raise ValueError(
            "`recorded` must be what a step of jsplit.record tells, the `recorded` of a "
            "round, what jsplit.party.run hands to `record`, or a list of these, got "
            f"{shown(recorded)}."
        )
    if client is not None and not all(isinstance(r, RecordedRound) for r in told):
        raise ValueError(
            "`client` is for records of rounds: others are of one client alone."
        )
    found: list[StepRecord] = []
    for r in cast(Sequence[OneRecord], told):
        if isinstance(r, Recorded):
            found += _of_trainer(r)
        elif isinstance(r, PartyRecord):
            own = StepRecord(r.crossed, r.step, r.weight, r.fields, party=r.party)
            found.append(own)
        else:
            found += _of_rounds(r, client)
    if not found:
        raise ValueError(
            f"`recorded` holds no step{'' if client is None else ' of that `client`'}."
        )
    return found


def _of_trainer(told: Recorded) -> list[StepRecord]:
    """The steps of a trainer's record: one, or those along an axis."""
    # A loss is one number, so an axis of it is one of steps.
    if jnp.ndim(told.info.loss) > 1:
        raise ValueError("`recorded` has more than one axis of steps.")
    if not jnp.ndim(told.info.loss):
        return [StepRecord(told.crossed)]
    crossed = dict(told.crossed)
    return [StepRecord(_row(crossed, i)) for i in range(len(told.info.loss))]


def _of_rounds(told: RecordedRound, client: int | None) -> list[StepRecord]:
    """The steps that clients took in a round, or in several along an axis."""
    # One axis is that of clients.
    if jnp.ndim(told.client) > 2:
        raise ValueError("`recorded` has more than one axis of rounds.")
    if jnp.ndim(told.client) == 2:
        rounds = [
            jax.tree.map(lambda x, i=i: x[i], told) for i in range(len(told.client))
        ]
        return [s for one in rounds for s in _of_rounds(one, client)]
    crossed, clients = dict(told.crossed), np.asarray(told.client)
    numbers, taken = np.asarray(told.step), np.asarray(told.taken)
    weight, reads = np.asarray(told.weight), np.asarray(told.reads)
    # Clients that step together share a number, and stay side by side.
    places = sorted(
        (int(numbers[k, s]), k, s)
        for k, s in zip(*np.nonzero(taken), strict=True)
        if client is None or clients[k] == client
    )
    return [
        StepRecord(_row(crossed, (k, s)), number, weight[k, s], None, reads[k, s])
        for number, k, s in places
    ]


def _row(
    crossed: dict[Passage, Crossed], at: int | tuple[int, int]
) -> dict[Passage, Crossed]:
    return jax.tree.map(lambda x: x[at], crossed)
