"""One step of a passive server that simulates its client's bottom, and learns to invert that.

The server's own top ties the simulator to the task, a discriminator ties its activations to
those that came, and a second one ties what the decoder makes of those to public records.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.privacy.attacks.inputs.fitting import classed
from jsplit.privacy.attacks.inputs.networks import are_pictures


class Simulator(NamedTuple):
    """What is simulated and how; by identity of its segments, so that it compiles once.

    Attributes:
        bottom: the form of the client's bottom.
        top: the server's own segment.
        head: the form of the client's head in a U-shape; `None` where the server has
            the labels.
        decoder: from an activation to a record.
        judges: discriminators of activations and of records, one number each.
        classes: of labels, by which decoder and judges are told apart where the
            server has them.
        rates: of Adam: for simulated segments, their judge, the decoder, its judge.
        weights: of both adversarial terms.
        flip: the share of public labels that are drawn anew where there is a head.
    """

    bottom: Segment
    top: Segment
    head: Segment | None
    decoder: Segment
    judges: tuple[Segment, Segment]
    classes: int
    rates: tuple[float, float, float, float]
    weights: tuple[float, float]
    flip: float

    @property
    def conditioned(self) -> bool:
        """Whether labels of private records are known, and go in beside what is judged."""
        return self.head is None


class Simulated(NamedTuple):
    """What the attacker carries from step to step.

    Attributes:
        params: by part: "simulated" (with "bottom" and "head"), "judge", "decoder",
            "critic".
        state: statistics of the simulated segments.
        memory: of the optimizers, by part.
        frame: mean, [...], and deviation, one number, of public records: a decoder
            starts near 0, a field need not.
    """

    params: dict[str, Params]
    state: dict[str, State]
    memory: dict[str, PyTree]
    frame: tuple[jax.Array, jax.Array]


class Came(NamedTuple):
    """What one step of the client's training told the server.

    Attributes:
        h: activations, [batch, ...].
        label: classes, int [batch]; zeros where the server has none.
        params: of the server's own segment in that step.
        state: its statistics.
    """

    h: jax.Array
    label: jax.Array
    params: Params
    state: State


PARTS = ("simulated", "judge", "decoder", "critic")


@cache
def optimizers(how: Simulator) -> dict[str, optax.GradientTransformation]:
    """One for each part."""
    return {p: optax.adam(rate) for p, rate in zip(PARTS, how.rates, strict=True)}


def with_label(how: Simulator, x: jax.Array, label: jax.Array) -> jax.Array:
    """An activation or a record with its class behind, as channels where it is a picture."""
    if not how.conditioned:
        return x
    told = jax.nn.one_hot(label, how.classes)
    if not are_pictures(x.shape[1:], x.shape[1:3]):
        return jnp.concatenate([x.reshape(len(x), -1), told], axis=1)
    planes = jnp.broadcast_to(told[:, None, None], (*x.shape[:3], how.classes))
    return jnp.concatenate([x, planes], axis=3)


def scale_of(h: jax.Array) -> jax.Array:
    """One number by which activations are divided before a network reads them."""
    # Of those that came, for both sides: else the judge would tell them by their size.
    return jax.lax.stop_gradient(h.std()) + jnp.finfo(jnp.float32).tiny


def with_channel(x: jax.Array) -> jax.Array:
    """A picture with an axis of channels; all else as it is."""
    return x[..., None] if x.ndim == 3 else x


def guessed(
    how: Simulator, own: Simulated, h: jax.Array, label: jax.Array, scale: jax.Array
) -> jax.Array:
    """What the decoder takes activations for, [batch, ...].

    Args:
        how: it is simulated.
        own: what the attacker carries.
        h: activations, [batch, ...].
        label: their classes, int [batch]; not read where there is a head.
        scale: `scale_of` those that came.

    Returns:
        Records.
    """
    mean, deviation = own.frame
    told = with_label(how, h / scale, label)
    return mean + deviation * _run(how.decoder, own.params["decoder"], told)


def start(
    how: Simulator, came: Came, record: jax.Array, known: jax.Array, key: jax.Array
) -> Simulated:
    """The attacker before its first step."""
    keys, few = jax.random.split(key, 5), slice(0, 1)
    bottom, state = how.bottom.init(keys[0], record)
    params, states = {"bottom": bottom}, {"bottom": state}
    if how.head is not None:
        out, _ = how.top.apply(came.params, came.state, None, came.h, train=False)
        params["head"], states["head"] = how.head.init(keys[1], out)
    told = with_label(how, came.h[few], came.label[few])
    image = with_label(how, with_channel(record[few]), known[few])
    found = {
        "simulated": params,
        "judge": how.judges[0].init(keys[2], told)[0],
        "decoder": how.decoder.init(keys[3], told)[0],
        "critic": how.judges[1].init(keys[4], image)[0],
    }
    memory = {p: optimizers(how)[p].init(found[p]) for p in PARTS}
    frame = record.mean(0), record.std() + jnp.finfo(jnp.float32).tiny
    return Simulated(found, states, memory, frame)


def costs(
    how: Simulator,
    own: Simulated,
    came: Came,
    record: jax.Array,
    known: jax.Array,
    key: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, State]]:
    """What each part is to make small, of parameters of its own alone.

    Args:
        how: it is simulated.
        own: what the attacker carries.
        came: what crossed in this step.
        record: public records, [batch, ...].
        known: their classes, int [batch].
        key: a PRNG key.

    Returns:
        One number by part, and new statistics. Where a part reads another's parameters
        they are constants, so that the gradient of the sum is that of each.
    """
    keys, still = jax.random.split(key, 5), jax.lax.stop_gradient
    scale, (mean, deviation) = scale_of(came.h), own.frame
    pair, judge, critic = (own.params[p] for p in ("simulated", "judge", "critic"))
    h, kept = how.bottom.apply(
        pair["bottom"], own.state["bottom"], keys[0], record, train=True
    )
    out, _ = how.top.apply(came.params, came.state, keys[1], h, train=True)
    states, target = {"bottom": kept}, known
    if how.head is not None:
        out, states["head"] = how.head.apply(
            pair["head"], own.state["head"], keys[2], out, train=True
        )
        target = _flipped(how, known, keys[3])

    def judged(part: Params, h: jax.Array, label: jax.Array) -> jax.Array:
        return _run(how.judges[0], part, with_label(how, h / scale, label))

    def seen(part: Params, x: jax.Array, label: jax.Array) -> jax.Array:
        x = with_channel((x - mean) / deviation)
        return _run(how.judges[1], part, with_label(how, x, label))

    rebuilt = guessed(how, own, still(h), known, scale)
    private = guessed(how, own, came.h, came.label, scale)
    found = {
        "simulated": classed(out, target).mean()
        + how.weights[0] * _taken(judged(still(judge), h, known), True),
        "judge": _taken(judged(judge, came.h, came.label), True)
        + _taken(judged(judge, still(h), known), False),
        "decoder": jnp.mean(((rebuilt - record) / deviation) ** 2)
        + how.weights[1] * _taken(seen(still(critic), private, came.label), True),
        "critic": _taken(seen(critic, record, known), True)
        + _taken(seen(critic, still(private), came.label), False),
    }
    return found, states


@partial(jax.jit, static_argnames="how")
def simulated_step(
    how: Simulator,
    own: Simulated,
    came: Came,
    record: jax.Array,
    known: jax.Array,
    key: jax.Array,
) -> Simulated:
    """One step of all four parts, each down its own cost.

    Args:
        how: it is simulated.
        own: what the attacker carries.
        came: what crossed in this step.
        record: public records, [batch, ...].
        known: their classes, int [batch].
        key: a PRNG key.

    Returns:
        What it carries on.
    """

    def total(params: dict[str, Params]) -> tuple[jax.Array, dict[str, State]]:
        found, states = costs(
            how, own._replace(params=params), came, record, known, key
        )
        return jnp.stack([found[p] for p in PARTS]).sum(), states

    down, states = jax.grad(total, has_aux=True)(own.params)
    params, memory = {}, {}
    for part, optimizer in optimizers(how).items():
        updates, memory[part] = optimizer.update(
            down[part], own.memory[part], own.params[part]
        )
        params[part] = optax.apply_updates(own.params[part], updates)
    return Simulated(params, states, memory, own.frame)


def _run(segment: Segment, params: Params, x: jax.Array) -> jax.Array:
    return segment.apply(params, {}, None, x, train=False)[0]


def _taken(logit: jax.Array, real: bool) -> jax.Array:
    """The cross-entropy of what a discriminator takes for real, or for not."""
    return jax.nn.softplus(-logit if real else logit).mean()


def _flipped(how: Simulator, known: jax.Array, key: jax.Array) -> jax.Array:
    """Labels, some drawn anew, so that a simulated head does not learn them by heart."""
    which, what = jax.random.split(key)
    other = jax.random.randint(what, known.shape, 0, how.classes)
    return jnp.where(jax.random.uniform(which, known.shape) < how.flip, other, known)
