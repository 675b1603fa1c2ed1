"""SDAR: a passive server watches a training, simulates the bottom, and inverts the simulation.

It asks the bottom nothing and sends nothing that was not agreed on; in a U-shape it simulates
the client's head as well, and so infers labels too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.attacks.attack import key_or_default
from jsplit.privacy.attacks.inputs.fitting import CHUNK
from jsplit.privacy.attacks.inputs.inversion import Inversion, Range, inverted
from jsplit.privacy.attacks.inputs.seen import in_both, public_of, truth_of
from jsplit.privacy.attacks.inputs.simulating import (
    Came,
    Simulated,
    Simulator,
    guessed,
    scale_of,
    simulated_step,
    start,
)
from jsplit.privacy.attacks.inputs.simulators import (
    checked_options,
    known_classes,
    simulator_for,
)
from jsplit.privacy.attacks.inputs.telling import classes
from jsplit.privacy.attacks.inputs.watched import Watched, came_in, noise_like
from jsplit.privacy.measures.images import within
from jsplit.privacy.measures.rates import balanced_accuracy
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.viewing.view import View, gets_inputs

SOURCE = "Zhu et al., Passive inference attacks on split learning, 2025"


class Simulation(NamedTuple):
    """What `sdar` found.

    Attributes:
        inversion: of records.
        labels: of labels, where a head was simulated and `truth` was given.

    Example:
        >>> from jsplit.privacy import Simulation
        >>> Simulation._fields
        ('inversion', 'labels')
    """

    inversion: Inversion
    labels: Score | None


def sdar(
    training: Iterable[Watched],
    record: PyTree,
    public: PyTree,
    known: PyTree,
    bottom: Segment,
    top: Segment,
    *,
    head: Segment | None = None,
    truth: PyTree | None = None,
    label: str = "label",
    value: str | None = None,
    view: View | None = None,
    decoder: Segment | None = None,
    width: int = 32,
    data_range: Range | None = None,
    learning_rates: tuple[float, float, float, float] = (1e-3, 2e-5, 5e-4, 5e-9),
    adversarial: tuple[float, float] = (0.02, 1e-5),
    flip: float = 0.2,
    target: str = "record",
    key: jax.Array | None = None,
) -> Simulation:
    """Simulate the bottom while it trains, and reconstruct records with the simulation's inverse.

    A passive adversary: whoever runs `top`, with labelled public records and the form of
    the bottom (and of the head). It follows the training step by step: a bottom of its
    own learns the task under the true top, and to make activations that a discriminator
    takes for those that came. A decoder learns to invert it, and to make of what came
    what a second discriminator takes for records. Where the server has the labels, decoder
    and discriminators are told them. That is what makes up for never asking the bottom.

    Args:
        training: what the server has of each step, in order. It is read once, so a
            generator that trains will do. The last item is what is attacked, and
            nothing is learned from it: activations of `record`, of one model.
        record: the truth of the last item, [records, ...].
        public: records of the same kind, [public, ...].
        known: their classes 0, 1, ..., int [public].
        bottom: the form of the client's bottom, of one input.
        top: the server's own segment, from an activation to logits, or to what the
            head reads.
        head: the form of the client's head in a U-shape, from that to logits.
        truth: labels of the last item, int [records], for the score of inferred ones.
        label: name of the field of labels that the server holds, if there is no `head`.
        value: which activation, where several came.
        view: the server's, of `views`; refused where there is nothing to invert.
        decoder: a segment of one input, an activation with its class behind; by default
            as `decoder_attack`'s.
        width: channels, and units, of the discriminators.
        data_range: the smallest and the largest value of a record, if it is known.
        learning_rates: of Adam, for simulated segments, the discriminator of activations,
            the decoder, that of records; the authors'. Few steps need larger ones.
        adversarial: weights of both adversarial terms; the authors'.
        flip: the share of public labels drawn anew in each step, with a head only.
        target: the name of the field, for the score.
        key: a PRNG key.

    Returns:
        The inversion, and labels. `control` is that of the same attack on noise of the
        activations' mean and deviation, in training and at the end, with shuffled
        public labels. `chance` of records is that of the mean of public ones, of the
        same class where the server has the labels; of labels balanced accuracy by
        guessing.

    Raises:
        ValueError: if there is no threat, no step to learn from, no label and no `head`,
            or shapes do not fit.

    References:
        Zhu, Luo, Wu, Jiang, Xiao and Ooi, `Passive inference attacks on split learning
        via adversarial regularization <https://arxiv.org/abs/2310.10483>`_, 2025, and
        the authors' rates and weights.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import Traffic, Watched, sdar
        >>> x, w = (jax.random.normal(jax.random.key(n), (40, 4)) for n in (0, 1))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> drawn = lambda a, b: lambda key, x: jax.random.normal(key, (a, b))
        >>> bottom = jsplit.segment(lambda w, x: jnp.tanh(x @ w), init=drawn(4, 4))
        >>> top = jsplit.segment(lambda w, h: h @ w, init=drawn(4, 2))
        >>> seen = Traffic("server", jnp.zeros(20, int), {"h": jnp.tanh(x[:20] @ w[:4])},
        ...     fields={"label": y[:20]})
        >>> steps = [Watched(seen, w[:4, :2])] * 3
        >>> found = sdar(steps, x[:20], x[20:], y[20:], bottom, top, width=4)
        >>> found.inversion.score.budget.steps
        2
    """
    if view is not None and not gets_inputs(view):
        raise ValueError(
            f"`view` of {shown(view.party)} has nothing to invert: no activation that it "
            "gets depends on inputs of others."
        )
    as_positive_int("width", width)
    first, order, fake, end = jax.random.split(key_or_default(key), 4)
    others = public_of(public, jnp.asarray(record))
    aims = jnp.asarray(told := known_classes(known, len(others)), jnp.int32)
    segments = bottom, top, head, decoder
    options = checked_options(learning_rates, adversarial, flip)
    how, own, none, last, party, budget = _followed(
        training,
        lambda item: came_in(item, value, label, head is None),
        lambda came: simulator_for(segments, options, came, others, told, width),
        (others, aims),
        (first, order, fake),
    )
    real = truth_of(record, len(last.h), target)
    if data_range is not None:
        within(real, data_range)
    noise = noise_like(last, fake)
    adversary = _adversary(party, len(others), head is None)
    inversion = inverted(
        *("SDAR", target, adversary, budget, real),
        _decoded(how, own, last),
        _decoded(how, none, noise),
        mean=_unseeing(how, others, aims, last.label),
        data_range=data_range,
        key=end,
        public=others,
        more={"in public": in_both(real, others)},
    )
    if head is None or truth is None:
        return Simulation(inversion, None)
    right = classes("truth", truth, told)
    score = _labels(how, (own, none), (last, noise), right, label, adversary, budget)
    return Simulation(inversion, score)


def _followed(
    training: Iterable[Watched],
    read: Callable[[Watched], Came],
    networks: Callable[[Came], Simulator],
    public: tuple[jax.Array, jax.Array],
    keys: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[Simulator, Simulated, Simulated, Came, str, Budget]:
    """Attack and control after the training, and the last item, of which nothing was learned."""
    (record, known), (first, order, fake) = public, keys
    shuffled = jax.random.permutation(jax.random.fold_in(fake, 0), known)
    own = none = last = how = None
    party, steps, seconds = "", 0, 0.0
    for item in training:
        # One behind.
        if last is not None:
            if how is None:
                how = networks(last)
                own = none = start(how, last, record, known, first)
            assert own is not None and none is not None
            begin = perf_counter()
            rows, seed = _drawn(order, steps, len(last.h), len(record))
            own = simulated_step(how, own, last, record[rows], known[rows], seed)
            jax.block_until_ready(own)
            seconds += perf_counter() - begin
            noise = noise_like(last, jax.random.fold_in(fake, steps + 1))
            none = simulated_step(how, none, noise, record[rows], shuffled[rows], seed)
            steps += 1
        last, party = read(item), item.traffic.party
    if last is None or how is None or own is None or none is None:
        raise ValueError("`training` must hold a step to learn from before its last.")
    return how, own, none, last, party, Budget(steps, len(last.h), seconds)


def _adversary(party: str, public: int, labels: bool) -> Adversary:
    """Who simulates."""
    has = "and the labels" if labels else "no label of the client's"
    return Adversary(
        party,
        f"{public} labelled records of the same kind, the form of the bottom, its own "
        f"segment in each step, {has}",
        public=public,
        labelled=public,
        source=SOURCE,
    )


def _labels(
    how: Simulator,
    own: tuple[Simulated, Simulated],
    came: tuple[Came, Came],
    right: np.ndarray,
    target: str,
    adversary: Adversary,
    budget: Budget,
) -> Score:
    """How well labels were inferred, by the attack and by its control."""
    found, nothing = (
        balanced_accuracy(_inferred(how, s, c), right)
        for s, c in zip(own, came, strict=True)
    )
    return Score(
        *("SDAR", target, "balanced accuracy", found.value, found.interval),
        *(nothing.value, 1 / len(np.unique(right)), True, adversary, budget),
    )


@partial(jax.jit, static_argnames=("batch", "records"))
def _drawn(order: jax.Array, number: int, batch: int, records: int):
    """Which public records a step reads, and its key."""
    which, seed = jax.random.split(jax.random.fold_in(order, number))
    return jax.random.randint(which, (batch,), 0, records), seed


def _decoded(how: Simulator, own: Simulated, came: Came) -> jax.Array:
    parts = [
        _guessed(how, own, came.h[low : low + CHUNK], came.label[low : low + CHUNK])
        for low in range(0, len(came.h), CHUNK)
    ]
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnames="how")
def _guessed(how, own, h, label):
    return guessed(how, own, h, label, scale_of(h))


def _inferred(how: Simulator, own: Simulated, came: Came) -> np.ndarray:
    """Classes that the simulated head finds, int [records]."""
    assert how.head is not None
    out, _ = how.top.apply(came.params, came.state, None, came.h, train=False)
    pair, state = own.params["simulated"], own.state["head"]
    logits, _ = how.head.apply(pair["head"], state, None, out, train=False)
    return np.asarray(logits.argmax(-1))


def _unseeing(
    how: Simulator, public: jax.Array, known: jax.Array, label: jax.Array
) -> jax.Array:
    """What is guessed without an activation: a mean of public records, of a class if told."""
    if not how.conditioned:
        return public.mean(0)
    told = jax.nn.one_hot(known, how.classes)
    count = told.sum(0)
    flat = told.T @ public.reshape(len(public), -1) / jnp.maximum(count, 1)[:, None]
    # Of a class that no public record has, that of all.
    flat = jnp.where(count[:, None] > 0, flat, public.reshape(len(public), -1).mean(0))
    return flat[label].reshape(len(label), *public.shape[1:])
