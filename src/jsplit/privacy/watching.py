"""From recorded steps to one party's `Traffic`: only what that party holds, sends and receives."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Fields, PyTree
from jsplit.core.checks import shown
from jsplit.core.trees import as_arrays, batch_of
from jsplit.privacy.recorded_steps import OneRecord, StepRecord, steps_of
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.records import Seen
from jsplit.training.recording import Passage

_PLACES = {
    ("activation", False): "received",
    ("cotangent", False): "returned",
    ("activation", True): "sent",
    ("cotangent", True): "gave",
}
"""By the kind of a message, and whether the party sent it: where it stands in `Traffic`."""


def traffic_of(
    recorded: OneRecord | Sequence[OneRecord],
    party: str,
    *,
    client: int | None = None,
    fields: Sequence[Fields] | None = None,
    steps: Sequence[int] | None = None,
    weights: Sequence[ArrayLike | None] | None = None,
) -> Traffic:
    """What one party has seen of steps that were recorded, in one process or over a network.

    Of what the party sent it has what it computed and what its link made of it; here
    stands what the receiver decoded. Numbers that parties exchange for a sum, and the
    payloads, stay in the record.

    Args:
        recorded: of one step, or of several: a list, or as `jax.lax.scan` stacks them;
            the `info.recorded` of a round; or what `jsplit.party.run` hands to `record`,
            of one step or a list.
        party: whose view it is.
        client: of a round, by number, whose steps; by default all clients', in the order
            of their numbers. That is the view of a party with which all train; of one
            that each client has for itself, say whose.
        fields: by step, those that the party holds, [batch, ...] each; no others, since
            what it does not hold would be in its view. By default those that the party
            recorded itself, over a network.
        steps: the numbers of the steps; by default as recorded by a round or over a
            network, else 0, 1, ...
        weights: by step, how much each example counted, [batch], or `None`. Give what
            the steps were given: in the row of an example of weight 0 crosses another
            one, so these rows are left out. Rounds, and parties over a network, have
            recorded them.

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
    told = steps_of(recorded, client)
    messages = _messages_of(told, party)
    if steps is None:
        steps = [i if r.number is None else r.number for i, r in enumerate(told)]
    if fields is None:
        # All steps or none: they are of one training. Of another party's record only
        # what crossed is in this one's view.
        own_fields = [
            r.fields for r in told if r.fields is not None and r.party == party
        ]
        fields = own_fields if len(own_fields) == len(told) else None
    weights = [r.weight for r in told] if weights is None else weights
    numbers = steps
    for what, given in (("fields", fields), ("steps", numbers), ("weights", weights)):
        if given is not None and len(given) != len(told):
            raise ValueError(
                f"`{what}` must be of the {len(told)} steps recorded, got {len(given)}."
            )
    held = [{}] * len(told) if fields is None else [as_arrays(f) for f in fields]
    rows = [_rows(r, messages, own) for r, own in zip(told, held, strict=True)]
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


def _messages_of(told: Sequence[StepRecord], party: str) -> list[Passage]:
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


def _rows(
    recorded: StepRecord, messages: Sequence[Passage], held: Fields
) -> np.ndarray:
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
    if counted.ndim > 1:
        # Of entries, as tokens: a record counts if any of its entries does.
        counted = counted.reshape(len(counted), -1).any(1)
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
