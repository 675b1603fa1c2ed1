"""From recorded steps to one party's `Traffic`: only what that party holds, sends and receives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Fields, PyTree, TrainState
from jsplit.core.checks import shown
from jsplit.core.trainer import Trainer
from jsplit.core.trees import as_arrays, batch_of
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.records import Seen
from jsplit.training.config import Config
from jsplit.training.record import RecordingTrainer, record
from jsplit.training.recording import Crossed, Passage, Recorded

_PLACES = {
    ("activation", False): "received",
    ("cotangent", False): "returned",
    ("activation", True): "sent",
    ("cotangent", True): "gave",
}
"""By the kind of a message, and whether the party sent it: where it stands in `Traffic`."""


def traffic_of(
    recorded: Recorded | Sequence[Recorded],
    party: str,
    *,
    fields: Sequence[Fields] | None = None,
    steps: Sequence[int] | None = None,
    weights: Sequence[ArrayLike | None] | None = None,
) -> Traffic:
    """What one party has seen of steps that `jsplit.record` recorded.

    Of what the party sent it has what it computed and what its link made of it; here
    stands what the receiver decoded. Numbers that parties exchange for a sum, and the
    payloads, stay in the record.

    Args:
        recorded: of one step, or of several: a list, or as `jax.lax.scan` stacks them.
        party: whose view it is.
        fields: by step, those that the party holds, [batch, ...] each; no others, since
            what it does not hold would be in its view.
        steps: the numbers of the steps; by default 0, 1, ...
        weights: by step, how much each example counted, [batch], or `None`. Give what
            the steps were given: in the row of an example of weight 0 crosses another
            one, so these rows are left out.

    Returns:
        A `Traffic`. Values of several receivers or senders are named by both where a
        name alone would not do: `smashed to server0`, `smashed from server1`.

    Raises:
        ValueError: if nothing crosses to or from `party`, if steps have different
            messages, or if fields or numbers do not fit the records.

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
        >>> seen = jsplit.privacy.traffic_of(recorded, "server")
        >>> list(seen.received), list(seen.gave), seen.step.shape
        (['smashed'], ['smashed'], (4,))
    """
    told = _steps_of(recorded)
    messages = _messages_of(told, party)
    numbers = range(len(told)) if steps is None else steps
    for what, given in (("fields", fields), ("steps", numbers), ("weights", weights)):
        if given is not None and len(given) != len(told):
            raise ValueError(
                f"`{what}` must be of the {len(told)} steps recorded, got {len(given)}."
            )
    held = [{}] * len(told) if fields is None else [as_arrays(f) for f in fields]
    rows = [_rows(r, messages, own) for r, own in zip(told, held, strict=True)]
    if weights is not None:
        rows = [r[_counted(w, len(r))] for r, w in zip(rows, weights, strict=True)]
    found: dict[str, dict[str, PyTree]] = {place: {} for place in _PLACES.values()}
    for message in messages:
        values = [r.crossed[message].value for r in told]
        place = found[_PLACES[message.kind, message.sender == party]]
        place[called(message, messages, party)] = _joined(values, rows)
    own = {f: _joined([h[f] for h in held], rows) for f in held[0]}
    counts = [len(r) for r in rows]
    step = jnp.asarray(np.repeat(np.asarray(numbers, np.int32), counts))
    return Traffic(party, step, **found, fields=own)


def watch(
    trainer: Trainer | RecordingTrainer,
    state: TrainState,
    batches: Iterable[Fields | tuple[Fields, ArrayLike]],
    party: str,
) -> tuple[TrainState, Traffic]:
    """Train on some batches, and keep what one party has seen.

    It trains as the trainer does. What crossed is brought to the host after each step.

    Args:
        trainer: of `jsplit.fused` or `jsplit.messages`, or of `jsplit.record`. One that
            records already compiles once for all calls; of a plain one each call makes
            such a trainer, and compiles.
        state: of all parties; it is not used up, unless the trainer donates it.
        batches: every field that the topology reads, by name, or pairs (batch, weight);
            examples of weight 0 are left out.
        party: whose view is kept, with the fields that it holds.

    Returns:
        The state after the last batch, and the `Traffic`, whose numbers of steps are
        those of the training.

    Raises:
        ValueError: if the topology has no such party, or nothing crosses to or from it,
            there is no batch, or as `trainer.step` and `jsplit.record` do.

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
    recording = trainer if isinstance(trainer, RecordingTrainer) else record(trainer)
    topology = cast(Config, recording.config).topology
    if party not in topology.parties:
        there = ", ".join(topology.parties)
        raise ValueError(f"`party` must be one of {there}, got {shown(party)}.")
    told: list[Recorded] = []
    fields: list[Fields] = []
    numbers: list[int] = []
    weights: list[ArrayLike | None] = []
    for item in batches:
        pair = isinstance(item, tuple)
        batch, weight = item if pair else (cast(Fields, item), None)
        batch = as_arrays(batch)
        weights.append(weight)
        numbers.append(int(state.parties[party].step))
        state, recorded = recording.step(state, batch, weight)
        # Off the device at once, and without what others alone have.
        crossed = {at: x for at, x in recorded.crossed.items() if party in at[2:]}
        crossed = {at: Crossed((), x.value) for at, x in crossed.items()}
        told.append(Recorded(recorded.info, jax.tree.map(np.asarray, crossed)))
        held = topology.holds.get(party, ())
        fields.append({f: x for f, x in batch.items() if f in held})
    if not told:
        raise ValueError("`batches` holds no batch: there is nothing to watch.")
    seen = traffic_of(told, party, fields=fields, steps=numbers, weights=weights)
    return state, seen


def _steps_of(recorded: object) -> list[Recorded]:
    """Records of steps, one by one."""
    told: list[object] = [recorded]
    # A record is a tuple itself, so it is asked for first.
    if not isinstance(recorded, Recorded) and isinstance(recorded, (list, tuple)):
        told = list(recorded)
    if not told or not all(isinstance(r, Recorded) for r in told):
        raise ValueError(
            "`recorded` must be what a step of jsplit.record tells, or a list of these, "
            f"got {shown(recorded)}."
        )
    found: list[Recorded] = []
    for r in cast(Sequence[Recorded], told):
        # A loss is one number, so an axis of it is one of steps.
        if jnp.ndim(r.info.loss) > 1:
            raise ValueError("`recorded` has more than one axis of steps.")
        if not jnp.ndim(r.info.loss):
            found.append(r)
            continue
        for i in range(len(r.info.loss)):
            crossed = jax.tree.map(lambda x, i=i: x[i], dict(r.crossed))
            found.append(Recorded(r.info, crossed))
    return found


def _messages_of(told: Sequence[Recorded], party: str) -> list[Passage]:
    """The activations and cotangents with the party at one end, which all steps have."""
    kinds = {kind for kind, _ in _PLACES}
    first = told[0].crossed
    for r in told[1:]:
        if r.crossed.keys() != first.keys():
            raise ValueError("`recorded` must hold steps of one trainer.")
    # A `Passage` in whichever form it comes: programs give tuples of its class back.
    found = [Passage(*at) for at in first if at[0] in kinds and party in at[2:]]
    if not found:
        parties = dict.fromkeys(p for at in first for p in at[2:])
        there = ", ".join(parties) or "none"
        raise ValueError(
            f"`party` must be one to or from which something crosses, got "
            f"{shown(party)}; there are {there}."
        )
    return found


def called(
    message: Passage | Seen, messages: Sequence[Passage | Seen], party: str
) -> str:
    """The name of a message among those of its kind that the party sent, or that it got."""
    sends, of = message.sender == party, (message.kind, message.name)
    alike = [
        m for m in messages if (m.kind, m.name) == of and (m.sender == party) == sends
    ]
    if len(alike) == 1:
        return message.name
    other = f"to {message.receiver}" if sends else f"from {message.sender}"
    return f"{message.name} {other}"


def _rows(recorded: Recorded, messages: Sequence[Passage], held: Fields) -> np.ndarray:
    """The numbers of the records of a step, which all that is laid by record shares."""
    crossed = {str(m): recorded.crossed[m].value for m in messages}
    return np.arange(
        batch_of({**crossed, **{f"field {f}": x for f, x in held.items()}})
    )


def _counted(weight: ArrayLike | None, size: int) -> np.ndarray:
    """Which records of a step count."""
    if weight is None:
        return np.ones(size, bool)
    counted = np.asarray(weight) != 0
    if counted.shape != (size,):
        raise ValueError(
            f"`weights` must hold one number for each of the {size} records of a step, "
            f"got shape {counted.shape}."
        )
    return counted


def _joined(parts: Sequence[PyTree], rows: Sequence[np.ndarray]) -> PyTree:
    """Those rows of the values of steps, one after the other."""

    def join(*arrays: jax.Array) -> jax.Array:
        kept = [np.asarray(x)[r] for x, r in zip(arrays, rows, strict=True)]
        return jnp.asarray(np.concatenate(kept))

    return jax.tree.map(join, *parts)
