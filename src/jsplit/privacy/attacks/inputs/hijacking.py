"""One step of feature-space hijacking, as both sides take it: what crosses, and nothing else.

The hijacker is given activations and gives a cotangent; the client is given a cotangent and
pulls it through its bottom. Whether the hijacker holds the loss does not enter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.jaxprs.compiling import jit
from jsplit.privacy.attacks.inputs.hijackers import Hijackers
from jsplit.privacy.attacks.rates import check_rates, check_weights

Penalty = Callable[[jax.Array, jax.Array], jax.Array]


class Client(NamedTuple):
    """A client as it trains; by identity, so that several trainings are one program.

    Attributes:
        bottom: its segment, of one input.
        optimizer: its own.
        penalty: of its records and activations, a number that it adds to its loss, as
            NoPeek's; `None` for none.
    """

    bottom: Segment
    optimizer: optax.GradientTransformation
    penalty: Penalty | None = None


class Hijacker(NamedTuple):
    """A malicious server.

    Attributes:
        nets: its networks.
        rates: of Adam, for encoder and decoder, and for the discriminator.
        gradient_penalty: weight of the discriminator's.
    """

    nets: Hijackers
    rates: tuple[float, float]
    gradient_penalty: float


def check_hijacker(rate: object, rate_judge: object, penalty: object) -> None:
    """Refuse rates and a weight with which a hijacker learns nothing.

    Raises:
        ValueError: naming the argument of `fsha` and `hijack`.
    """
    check_rates(learning_rate=rate, learning_rate_judge=rate_judge)
    check_weights(gradient_penalty=penalty)


class Own(NamedTuple):
    """What one side carries from step to step.

    Attributes:
        params: its parameters.
        state: statistics of a bottom; `{}` of a hijacker.
        memory: of its optimizer.
    """

    params: Params
    state: State
    memory: PyTree


@cache
def optimizers(
    hijacker: Hijacker,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The hijacker's: of its autoencoder, and of its discriminator."""
    pair, judge = hijacker.rates
    return optax.adam(pair), optax.adam(judge)


def start_client(client: Client, record: jax.Array, key: jax.Array) -> Own:
    """A client before its first step."""
    params, state = client.bottom.init(key, record)
    return Own(params, state, client.optimizer.init(params))


def start_hijacker(
    hijacker: Hijacker, record: jax.Array, h: jax.Array, key: jax.Array
) -> Own:
    """A hijacker before its first step, of public records and an activation's shape."""
    nets, keys = hijacker.nets, jax.random.split(key, 3)
    pair = {
        "encoder": nets.encoder.init(keys[0], record)[0],
        "decoder": nets.decoder.init(keys[1], h)[0],
    }
    judge, _ = nets.discriminator.init(keys[2], h)
    of_pair, of_judge = optimizers(hijacker)
    return Own((pair, judge), {}, (of_pair.init(pair), of_judge.init(judge)))


def _run(segment: Segment, params: Params, x: jax.Array) -> jax.Array:
    return segment.apply(params, {}, None, x, train=False)[0]


def answer(
    hijacker: Hijacker, own: Own, h: jax.Array, public: jax.Array, key: jax.Array
) -> tuple[Own, jax.Array]:
    """The hijacker's part: it looks at activations, learns, and sends a cotangent.

    Args:
        hijacker: who.
        own: what it carries.
        h: activations that came, [batch, ...].
        public: records of its own, [batch, ...].
        key: a PRNG key.

    Returns:
        What it carries on, and the cotangent, of the shape of `h`.
    """
    nets, (pair, judge) = hijacker.nets, own.params
    score = partial(_run, nets.discriminator)

    # As the authors: the private side goes down the score that its own side goes up.
    # All three read the parameters as they were before this step.
    cotangent = jax.grad(lambda h: score(judge, h).mean())(h)

    def rebuilt(pair: dict) -> tuple[jax.Array, jax.Array]:
        mine = _run(nets.encoder, pair["encoder"], public)
        return jnp.mean((_run(nets.decoder, pair["decoder"], mine) - public) ** 2), mine

    down, mine = jax.grad(rebuilt, has_aux=True)(pair)

    def judged(judge: Params) -> jax.Array:
        apart = score(judge, mine).mean() - score(judge, h).mean()
        share = jax.random.uniform(key, (len(h),) + (1,) * (h.ndim - 1))
        between = h + share * (mine - h)
        slope = jax.grad(lambda h: score(judge, h).sum())(between)
        # Squares are not 0 here but for a dead discriminator; the root's gradient there
        # would be NaN.
        length = jnp.sqrt((slope.reshape(len(h), -1) ** 2).sum(1) + 1e-12)
        return apart + hijacker.gradient_penalty * jnp.mean((length - 1) ** 2)

    of_pair, of_judge = optimizers(hijacker)
    updates, memory = of_pair.update(down, own.memory[0], pair)
    pair = optax.apply_updates(pair, updates)
    updates, other = of_judge.update(jax.grad(judged)(judge), own.memory[1], judge)
    judge = optax.apply_updates(judge, updates)
    return Own((pair, judge), {}, (memory, other)), cotangent


def hijacked_step(
    client: Client,
    hijacker: Hijacker,
    theirs: Own,
    own: Own,
    record: jax.Array,
    public: jax.Array,
    key: jax.Array,
) -> tuple[Own, Own]:
    """One step of a hijacked training.

    Args:
        client: the client, which trains as it would.
        hijacker: the malicious server.
        theirs: what the client carries.
        own: what the hijacker carries.
        record: the client's batch.
        public: the hijacker's batch.
        key: a PRNG key.

    Returns:
        What both carry on.
    """
    mask, mixing = jax.random.split(key)

    def forward(params: Params) -> tuple[jax.Array, State]:
        return client.bottom.apply(params, theirs.state, mask, record, train=True)

    h, pull, state = jax.vjp(forward, theirs.params, has_aux=True)
    own, cotangent = answer(hijacker, own, h, public, mixing)
    if client.penalty is not None:
        # The client's own loss is its own: it adds to whatever it was sent.
        cotangent = cotangent + jax.grad(client.penalty, 1)(record, h)
    updates, memory = client.optimizer.update(
        *(pull(cotangent)[0], theirs.memory, theirs.params)
    )
    params = optax.apply_updates(theirs.params, updates)
    return Own(params, state, memory), own


@cache
def compiled_step(client: Client, hijacker: Hijacker) -> Callable[..., PyTree]:
    """`hijacked_step` of these two, compiled once for all trainings of them."""
    return jit(partial(hijacked_step, client, hijacker))
