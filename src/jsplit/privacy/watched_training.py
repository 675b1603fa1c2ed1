"""Training that is watched: steps or rounds, of which one party's `Traffic` is kept.

It trains as the trainer or the algorithm does, and records it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

import jax
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Fields, TrainState
from jsplit.core.checks import shown
from jsplit.core.federation import Federation, number_of
from jsplit.core.trainer import Trainer
from jsplit.core.trees import as_arrays
from jsplit.populations.round import Round
from jsplit.privacy.recorded_steps import steps_of
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.watching import traffic_of
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.recording import RecordedRound
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.record import RecordingTrainer, record
from jsplit.training.recording import Crossed, Passage, Recorded

_State = TypeVar("_State", TrainState, Federation)


def watch(
    trainer: Trainer | RecordingTrainer | Algorithm,
    state: _State,
    batches: Iterable[Fields | tuple[Fields, ArrayLike] | Round],
    party: str,
    *,
    client: int | str | None = None,
) -> tuple[_State, Traffic]:
    """Train on some batches, and keep what one party has seen.

    It trains as the trainer does. What crossed is brought to the host after each step,
    or each round.

    Args:
        trainer: of `jsplit.fused` or `jsplit.messages`, an algorithm of `jsplit.rounds`,
            or what `jsplit.record` makes of one, which compiles once for all calls; of
            a plain one each call makes such a trainer, and compiles.
        state: of all parties; it is not used up, unless the trainer donates it.
        batches: every field that the topology reads, by name, or pairs (batch, weight);
            examples of weight 0 are left out. Of an algorithm, rounds.
        party: whose view is kept, with the fields that it holds.
        client: of an algorithm, whose steps, by number or name; by default all
            clients', which is the view of a party with which all train.

    Returns:
        The state after the last batch or round, and the `Traffic`, whose numbers of steps are
        those of the training.

    Raises:
        ValueError: if the topology has no such party, or nothing crosses to or from it,
            there is no batch or no such client, or as `trainer.step` and `jsplit.record`
            do.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs=["x"]
        ... )
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state, seen = jsplit.privacy.watch(
        ...     trainer, trainer.init(0, batch), [batch] * 3, "client"
        ... )
        >>> seen.returned["smashed"].shape, list(seen.fields), seen.step.tolist()[-1]
        ((12, 3), ['x'], 2)
    """
    if isinstance(trainer, Algorithm):
        federation, seen = _watch_rounds(
            trainer, cast(Federation, state), batches, party, client
        )
        return cast(_State, federation), seen
    if client is not None:
        raise ValueError(
            "`client` is for algorithms of jsplit.rounds: a trainer has one client."
        )
    recording = trainer if isinstance(trainer, RecordingTrainer) else record(trainer)
    topology = cast(Config, recording.config).topology
    _check_party(topology, party)
    now = cast(TrainState, state)
    told: list[Recorded] = []
    fields: list[Fields] = []
    numbers: list[int] = []
    weights: list[ArrayLike | None] = []
    for item in batches:
        if isinstance(item, Round):
            raise ValueError(
                "`batches` holds a round, which an algorithm of jsplit.rounds reads; a "
                "trainer reads batches."
            )
        pair = isinstance(item, tuple)
        batch, weight = item if pair else (cast(Fields, item), None)
        batch = as_arrays(batch)
        weights.append(weight)
        numbers.append(int(now.parties[party].step))
        now, recorded = recording.step(now, batch, weight)
        told.append(Recorded(recorded.info, _kept(recorded.crossed, party)))
        held = topology.holds.get(party, ())
        fields.append({f: x for f, x in batch.items() if f in held})
    if not told:
        raise ValueError("`batches` holds no batch: there is nothing to watch.")
    seen = traffic_of(told, party, fields=fields, steps=numbers, weights=weights)
    return cast(_State, now), seen


def _watch_rounds(
    algorithm: Algorithm,
    state: Federation,
    rounds: Iterable[object],
    party: str,
    client: int | str | None,
) -> tuple[Federation, Traffic]:
    """Train some rounds, and keep what one party has seen."""
    recording = algorithm if algorithm.config.records else record(algorithm)
    topology = algorithm.config.topology
    _check_party(topology, party)
    whose = None if client is None else number_of(state, client)
    told: list[RecordedRound] = []
    fields: list[Fields] = []
    held = topology.holds.get(party, ())
    for one in rounds:
        state, info = recording.step(state, cast(Round, one))
        recorded = cast(RecordedRound, info.recorded)
        crossed = _kept(recorded.crossed, party)
        told.append(recorded._replace(crossed=crossed, gradients={}))
        if whose is not None and whose not in np.asarray(recorded.client):
            # A client that is not asked in a round sees nothing of it.
            told.pop()
            continue
        data = as_arrays(
            {f: x for f, x in cast(Round, one).fields.items() if f in held}
        )
        for step in steps_of(told[-1], whose):
            fields.append(jax.tree.map(lambda x, at=step.reads: x[at], dict(data)))
    if not told:
        raise ValueError(
            "`batches` holds no round, or none in which `client` takes part: there is "
            "nothing to watch."
        )
    return state, traffic_of(told, party, client=whose, fields=fields)


def _check_party(topology: Topology, party: str) -> None:
    if party not in topology.parties:
        there = ", ".join(topology.parties)
        raise ValueError(f"`party` must be one of {there}, got {shown(party)}.")


def _kept(crossed: Mapping[Passage, Crossed], party: str) -> dict[Passage, Crossed]:
    """What one party sends or gets, on the host; payloads stay in the record."""
    # Off the device at once, and without what others alone have.
    own = {at: x for at, x in crossed.items() if party in at[2:]}
    own = {at: Crossed((), x.value) for at, x in own.items()}
    return jax.tree.map(np.asarray, own)
