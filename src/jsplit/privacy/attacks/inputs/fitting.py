"""A network fitted to pairs by Adam, and of its states the one that does best on pairs held out.

With few public records a decoder learns them by heart. An adversary sees that on those it
held out, and stops there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.core.base import Params, Segment
from jsplit.privacy.attacks.attack import gained
from jsplit.privacy.measures.records import generator

CHUNK = 1024  # records whose outputs are computed at a time
LOOKS = 10  # how often the held-out pairs are looked at
HELD = 0.1  # of the pairs
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def squared(guess: jax.Array, truth: jax.Array) -> jax.Array:
    """Squared error of each record, [batch]."""
    return ((guess - truth) ** 2).reshape(len(truth), -1).mean(1)


def classed(guess: jax.Array, truth: jax.Array) -> jax.Array:
    """Cross-entropy of each record, [batch]; truth is classes, of positions it may be too."""
    found = optax.softmax_cross_entropy_with_integer_labels(guess, truth)
    return found.reshape(len(truth), -1).mean(1)


class Fit(NamedTuple):
    """What is fitted and how; by identity of its functions, so it compiles once.

    Attributes:
        network: a segment of one input, without statistics.
        loss: of guess and truth, a number for each record.
        steps: of Adam.
        batch: records a step.
        learning_rate: of Adam, falling to 0 as a cosine.
    """

    network: Segment
    loss: Loss
    steps: int
    batch: int
    learning_rate: float


@cache
def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))


class Fitted(NamedTuple):
    """What a fit gives.

    Attributes:
        params: with which the held-out pairs cost least.
        gained: the share of what was gained on them that came in the last tenth of steps.
    """

    params: Params
    gained: float


def fitted(fit: Fit, x: jax.Array, y: jax.Array, key: jax.Array) -> Fitted:
    """Fit to pairs.

    Args:
        fit: what, and how.
        x: inputs, [pairs, ...].
        y: what they are to give, [pairs, ...].
        key: a PRNG key: for first parameters, batches and which pairs are held out.

    Returns:
        The parameters with which the held-out pairs cost least, and how it ended.
    """
    first, order, aside = jax.random.split(key, 3)
    rows = generator(aside).permutation(len(x))
    few = max(1, round(HELD * len(x)))
    held, used = jnp.asarray(rows[:few]), jnp.asarray(rows[few:])
    params, _ = fit.network.init(first, x)
    memory = _optimizer(fit.learning_rate, fit.steps).init(params)
    best, least = params, _cost(fit, params, x, y, held)
    first = late = least
    every = max(1, fit.steps // LOOKS)
    # A loop of Python over one compiled step: in a scan convolutions are slow on a CPU.
    for number in range(fit.steps):
        params, memory = _step(fit, params, memory, x, y, used, order, number)
        if (number + 1) % every == 0 or number + 1 == fit.steps:
            cost = _cost(fit, params, x, y, held)
            # Not `<=`: of a network that went to NaN nothing is kept.
            if cost < least:
                best, least = params, cost
            # Of the best so far: what was best long ago is no gain of the end.
            late = least if 10 * (number + 1) <= 9 * fit.steps else late
    return Fitted(best, gained(first, late, least))


def outputs(network: Segment, params: Params, x: jax.Array) -> jax.Array:
    """What a network gives of all inputs, [records, ...], in parts."""
    parts = [
        _outputs(network, params, x[low : low + CHUNK])
        for low in range(0, len(x), CHUNK)
    ]
    return jnp.concatenate(parts)


def _cost(
    fit: Fit, params: Params, x: jax.Array, y: jax.Array, held: jax.Array
) -> float:
    return float(np.asarray(_measured(fit, params, x, y, held[:CHUNK])))


@partial(jax.jit, static_argnames="fit")
def _step(fit, params, memory, x, y, used, order, number):
    draw = jax.random.fold_in(order, number)
    which, mask = jax.random.split(draw)
    inside = used[jax.random.randint(which, (fit.batch,), 0, len(used))]

    def cost(params: Params) -> jax.Array:
        guess, _ = fit.network.apply(params, {}, mask, x[inside], train=True)
        return fit.loss(guess, y[inside]).mean()

    optimizer = _optimizer(fit.learning_rate, fit.steps)
    updates, memory = optimizer.update(jax.grad(cost)(params), memory, params)
    return optax.apply_updates(params, updates), memory


@partial(jax.jit, static_argnames="fit")
def _measured(fit, params, x, y, held):
    guess, _ = fit.network.apply(params, {}, None, x[held], train=False)
    return fit.loss(guess, y[held]).mean()


@partial(jax.jit, static_argnames="network")
def _outputs(network, params, x):
    return network.apply(params, {}, None, x, train=False)[0]
