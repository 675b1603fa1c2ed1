"""A bottom and a head fitted together, or a head on given activations, from a few labels.

The loop of a model completion: which records a step reads, and what it learns from them.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import shown
from jsplit.privacy.attacks.labels.mixing import Learner, mixed_step, supervised_step

CHUNK = 1024  # records whose logits are computed at a time


class Fit(NamedTuple):
    """What is fitted, and how.

    Attributes:
        head: of one input, whose output is logits.
        classes: how many.
        bottom: a segment, its parameters and statistics, fitted with the head; `None`:
            inputs are activations.
        method: "supervised" or "semi-supervised".
        steps: of Adam.
        batch: records a step.
        learning_rate: of Adam.
    """

    head: Segment
    classes: int
    bottom: tuple[Segment, Params, State] | None
    method: str
    steps: int
    batch: int
    learning_rate: float


def completed(
    fit: Fit, inputs: PyTree, known: np.ndarray, label: np.ndarray, key: jax.Array
) -> np.ndarray:
    """Fit to known records, and give logits of all.

    Args:
        fit: what, and how.
        inputs: activations [records, ...], or a tuple of a bottom's fields.
        known: whose label is read, bool [records].
        label: the classes, int [records].
        key: a PRNG key.

    Returns:
        [records, classes].

    Raises:
        ValueError: if the head has statistics, or gives other than a logit a class.
    """
    first, order = jax.random.split(key)
    learner = _learner(fit.head, fit.bottom and fit.bottom[0], fit.learning_rate)
    params, state = _start(fit, inputs, first)
    memory = learner.optimizer.init(params)
    few, rest = (jnp.asarray(np.flatnonzero(x)) for x in (known, ~known))
    labels = jnp.asarray(np.where(known, label, 0), jnp.int32)
    spread = jax.tree.map(_deviation, inputs)
    # A loop of Python over one compiled step: in a scan convolutions are slow on a CPU.
    for number in range(fit.steps):
        draws = _draws(order, number, fit.batch, few, rest)
        own = _taken(inputs, labels, draws[0])
        if fit.method == "supervised":
            params, memory = supervised_step(
                learner, params, memory, state, draws[2], *own
            )
            continue
        others, _ = _taken(inputs, labels, draws[1])
        done = number / fit.steps
        params, memory = mixed_step(
            learner, params, memory, state, draws[2], *own, others, spread, done
        )
    parts = []
    for low in range(0, len(known), CHUNK):
        part = jax.tree.map(lambda x, low=low: x[low : low + CHUNK], inputs)
        parts.append(np.asarray(_logits(learner, params, state, part)))
    return np.concatenate(parts)


# Cached, so that an attack, its controls and the next attack are one program.
@cache
def _learner(head: Segment, bottom: Segment | None, learning_rate: float) -> Learner:
    def apply(
        params: PyTree, state: State, key: jax.Array, inputs: PyTree, train: bool
    ) -> jax.Array:
        h = inputs
        if bottom is not None:
            # Its statistics stay: those of a few labelled records would be worse.
            h, _ = bottom.apply(params["bottom"], state, key, *inputs, train=False)
        return head.apply(params["head"], {}, key, h, train=train)[0]

    return Learner(apply, optax.adam(learning_rate))


def _start(fit: Fit, inputs: PyTree, key: jax.Array) -> tuple[PyTree, State]:
    """First parameters of what is fitted, and the statistics of the bottom."""
    params, state, h = {}, {}, inputs
    if fit.bottom is not None:
        segment, own, state = fit.bottom
        params["bottom"] = jax.tree.map(jnp.asarray, own)
        h = jax.eval_shape(
            partial(segment.apply, train=False), own, state, None, *inputs
        )[0]
        h = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), h)
    params["head"], statistics = fit.head.init(key, h)
    if jax.tree.leaves(statistics):
        raise ValueError(
            "`head` must have no statistics, as BatchNorm has them: those of a few "
            "labelled records would not be those of the others."
        )
    apply = partial(fit.head.apply, train=False)
    logits, _ = jax.eval_shape(apply, params["head"], {}, None, h)
    records = jax.tree.leaves(inputs)[0].shape[0]
    if getattr(logits, "shape", None) != (records, fit.classes):
        raise ValueError(
            f"`head` must give a logit for each of {fit.classes} classes, "
            f"[{records}, {fit.classes}], got {shown(logits)}."
        )
    return params, state


@jax.jit
def _deviation(x: jax.Array) -> jax.Array:
    """Of each number over records: noise is relative to it."""
    return x.astype(jnp.float32).std(0)


@partial(jax.jit, static_argnames="batch")
def _draws(order: jax.Array, number: int, batch: int, few: jax.Array, rest: jax.Array):
    """Which records a step reads, of known ones and of others, and its key."""
    key, at, other = jax.random.split(jax.random.fold_in(order, number), 3)
    known = few[jax.random.randint(at, (batch,), 0, len(few))]
    return known, rest[jax.random.randint(other, (batch,), 0, len(rest))], key


@jax.jit
def _taken(inputs: PyTree, label: jax.Array, which: jax.Array):
    return jax.tree.map(lambda x: x[which], inputs), label[which]


@partial(jax.jit, static_argnames="learner")
def _logits(learner: Learner, params: PyTree, state: State, inputs: PyTree):
    # A segment in inference needs no key.
    return learner.apply(params, state, jax.random.key(0), inputs, False)
