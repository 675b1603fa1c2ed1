"""Learning from few labels and many records without: MixMatch, on what an adversary holds.

Records without a label are guessed by the model itself, the guesses made sharper, and all
records mixed with one another in pairs, so that the model is smooth between them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree


class Apply(Protocol):
    """Compute logits [batch, classes]."""

    def __call__(
        self, params: PyTree, state: PyTree, key: jax.Array, inputs: PyTree, train: bool
    ) -> jax.Array: ...


class Learner(NamedTuple):
    """How a completed model learns; numbers are those of Fu et al. but for the noise.

    Attributes:
        apply: `apply(params, state, key, inputs, train) -> logits`.
        optimizer: of the parameters.
        sharper: the temperature of guesses, from 0 to 1.
        alpha: of the Beta distribution of mixtures.
        most: the weight of records without label once all steps are done.
        guesses: how often a record is guessed, with other noise.
        noise: deviation of that noise, in deviations of each number.
    """

    apply: Apply
    optimizer: optax.GradientTransformation
    sharper: float = 0.8
    alpha: float = 0.75
    most: float = 50.0
    guesses: int = 2
    noise: float = 0.1


@partial(jax.jit, static_argnames="learner")
def supervised_step(
    learner: Learner,
    params: PyTree,
    memory: PyTree,
    state: PyTree,
    key: jax.Array,
    labelled: PyTree,
    label: jax.Array,
) -> tuple[PyTree, PyTree]:
    """Take one step on labelled records, by cross entropy.

    Args:
        learner: the model and its settings.
        params: of the model.
        memory: of the optimizer.
        state: statistics, which stay.
        key: a PRNG key.
        labelled: inputs, arrays [batch, ...].
        label: int [batch].

    Returns:
        New parameters and memory.
    """

    def loss(params: PyTree) -> jax.Array:
        logits = learner.apply(params, state, key, labelled, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    return _updated(learner, params, memory, jax.grad(loss)(params))


@partial(jax.jit, static_argnames="learner")
def mixed_step(
    learner: Learner,
    params: PyTree,
    memory: PyTree,
    state: PyTree,
    key: jax.Array,
    labelled: PyTree,
    label: jax.Array,
    others: PyTree,
    deviation: PyTree,
    done: float,
) -> tuple[PyTree, PyTree]:
    """Take one step of MixMatch.

    Args:
        learner: the model and its settings.
        params: of the model.
        memory: of the optimizer.
        state: statistics, which stay.
        key: a PRNG key.
        labelled: inputs whose label is known, arrays [batch, ...].
        label: int [batch].
        others: inputs without, arrays [batch, ...].
        deviation: of each number of an input over records, of the form of an input.
        done: how much of the training is done, 0 to 1.

    Returns:
        New parameters and memory.
    """
    noise, guess, order, draw, blur, fit = jax.random.split(key, 6)
    views = [_noisy(learner, k, others, deviation) for k in _keys(noise, learner)]
    logits = [learner.apply(params, state, guess, x, True) for x in views]
    mean = jnp.stack([jax.nn.softmax(x) for x in logits]).mean(0)
    sharp = jax.nn.softmax(jnp.log(jnp.maximum(mean, 1e-12)) / learner.sharper)
    # Guesses are targets: the model is not to make them easier to hit.
    sharp = jax.lax.stop_gradient(sharp)
    first = _noisy(learner, blur, labelled, deviation)
    inputs = jax.tree.map(lambda *x: jnp.concatenate(x), first, *views)
    targets = [jax.nn.one_hot(label, mean.shape[-1]), *[sharp] * len(views)]
    target = jnp.concatenate(targets)
    share = jax.random.beta(draw, learner.alpha, learner.alpha, (len(target),))
    # Each stays nearer to itself than to its partner, so that it keeps its kind.
    share = jnp.maximum(share, 1 - share)
    partner = jax.random.permutation(order, len(target))

    def mix(x: jax.Array) -> jax.Array:
        own = share.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)
        return own * x + (1 - own) * x[partner]

    inputs, target = jax.tree.map(mix, inputs), mix(target)
    count = len(label)

    def loss(params: PyTree) -> jax.Array:
        logits = learner.apply(params, state, fit, inputs, True)
        known = optax.softmax_cross_entropy(logits[:count], target[:count]).mean()
        guessed = jnp.square(jax.nn.softmax(logits[count:]) - target[count:]).mean()
        return known + learner.most * done * guessed

    return _updated(learner, params, memory, jax.grad(loss)(params))


def _keys(key: jax.Array, learner: Learner) -> list[jax.Array]:
    return list(jax.random.split(key, learner.guesses))


def _noisy(
    learner: Learner, key: jax.Array, inputs: PyTree, deviation: PyTree
) -> PyTree:
    """Inputs with noise: what takes the place of the crops and flips of pictures."""
    leaves, tree = jax.tree.flatten(inputs)
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))

    def one(key: jax.Array, x: jax.Array, spread: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + learner.noise * spread * jax.random.normal(key, x.shape, x.dtype)

    return jax.tree.map(one, keys, inputs, deviation)


def _updated(learner: Learner, params: PyTree, memory: PyTree, grads: PyTree):
    updates, memory = learner.optimizer.update(grads, memory, params)
    return optax.apply_updates(params, updates), memory
