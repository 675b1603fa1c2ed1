"""Gradient matching: a head of one's own, trained to send back the cotangents that came.

For each record and each class the surrogate head has a cotangent; the class whose cotangent
lies nearest to the one that came is the guess, and the head learns to bring it nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.attack import key_or_default, rows, seed_of
from jsplit.privacy.attacks.labels.groups import groups_of
from jsplit.privacy.attacks.labels.seen import Seen, cotangents, noise_like
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Erdogan et al., UnSplit, 2022, label inference"
CHUNK = 256  # records whose cotangents of all classes are in memory at a time
LossFn = Callable[[PyTree, jax.Array], jax.Array]


def gradient_matching(
    traffic: Traffic,
    label: PyTree,
    head: Segment,
    loss: LossFn,
    *,
    classes: int,
    known: PyTree = None,
    value: str | None = None,
    steps: int = 500,
    restarts: int = 4,
    batch: int = 64,
    learning_rate: float = 1e-2,
    ids: PyTree = None,
    target: str = "label",
    key: jax.Array | None = None,
) -> Score:
    """Infer labels by a surrogate head that matches the cotangents that came.

    A passive adversary that knows the form of the part of the network that follows its
    own, and the loss. A head whose classes are exchanged sends the same cotangents, so
    what is found are groups: named by known records, or as `direction_clusters` does
    without any. Of several starts the one counts that matches best, which the
    adversary sees. Cotangents are scaled to a mean square of 1 in each step, and the
    surrogate has a scale of its own, so batch sizes and weights of losses do not matter.

    Args:
        traffic: what the adversary has seen: cotangents of a value, and that value,
            which it sent.
        label: the truth, [records], from 0 to `classes` - 1; the score is held against it.
        head: the form of what comes after: a segment of one input, the value. Its own
            parameters are drawn by `head.init`, so that must depend on its key.
        loss: `loss(output, label)`, a number for each record, labels int32 [batch].
        classes: how many.
        known: records whose label the adversary knows, booleans [records] or places;
            one of each class at least.
        value: the value, where several cotangents came.
        steps: of Adam, for each start.
        restarts: how many starts.
        batch: records a step.
        learning_rate: of Adam.
        ids: [records], who a record is, where records occur in several steps: the
            interval allows for it.
        target: the name of the label, for the score.
        key: a PRNG key, for the starts, the batches and the control.

    Returns:
        Of two classes the leak AUC, the mean over batches, and else the accuracy.
        `control` is that of isotropic noise in the place of cotangents. `more` has
        "mismatch", the mean square of what the best start leaves unmatched (1 is all),
        "untrained head", the score before the first step, and what
        `direction_clusters` has.

    Raises:
        ValueError: if no cotangent came to this party or it did not send that value,
            `known` lacks a class, or shapes do not fit.

    References:
        Erdogan, Kupcu and Cicek, `UnSplit: data-oblivious model inversion, model
        stealing, and label inference attacks against split learning
        <https://arxiv.org/abs/2108.09033>`_, 2022, section 3.3.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit, optax
        >>> from jsplit.privacy import Traffic, gradient_matching
        >>> draw = lambda key, h: jax.random.normal(key, (2, 2))
        >>> head = jsplit.segment(lambda w, h: h @ w, init=draw, inputs=["h"])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> h, label = jax.random.normal(jax.random.key(1), (64, 2)), jnp.arange(64) % 2
        >>> cotangent = jax.grad(lambda h: loss(h @ jnp.eye(2), label).mean())(h)
        >>> step = jnp.zeros(64, int)
        >>> seen = Traffic("server", step, returned={"h": cotangent}, sent={"h": h})
        >>> score = gradient_matching(seen, label, head, loss, classes=2, steps=50)
        >>> score.value > 0.9
        True
    """
    start = perf_counter()
    seen, key = cotangents(traffic, value), key_or_default(key)
    if seen.name not in traffic.sent:
        raise ValueError(
            f"`traffic.sent` must have `{seen.name}`, the value whose cotangent came: "
            "the surrogate head computes with it."
        )
    rows(seen.name, traffic.sent[seen.name], len(seen.step))
    counts = {"steps": steps, "restarts": restarts, "batch": batch}
    for name, count in counts.items():
        as_positive_int(name, count)
    groups = groups_of(label, seen.step, classes, known, ids)
    rng = np.random.default_rng(seed_of(key))
    match = _Matching(head, loss, classes, _adam(learning_rate))
    run = partial(_matched, match, traffic.sent[seen.name], steps, restarts, batch)
    margins, mismatch = run(seen, key)
    found = groups.judged(margins, rng)
    seconds = perf_counter() - start
    noise, _ = run(noise_like(seen, jax.random.fold_in(key, 1)), key)
    untrained, _ = _matched(
        match, traffic.sent[seen.name], 0, restarts, batch, seen, key
    )
    number = groups.labelled
    labels = f", {number} records with their labels" if number else ", no label"
    more = {
        "mismatch": mismatch,
        "untrained head": groups.judged(untrained, rng).value,
        "shuffled labels": groups.judged(margins, rng, shuffled=True).value,
    }
    return Score(
        "gradient matching",
        target,
        found.measure,
        found.value,
        found.interval,
        groups.judged(noise, rng).value,
        found.chance,
        True,
        Adversary(
            traffic.party,
            f"the form of the head and the loss{labels}",
            labelled=number,
            source=SOURCE,
        ),
        Budget(steps * restarts, len(seen.step), seconds),
        {**found.more, **more},
    )


# One optimizer of a rate, so that two attacks with the same head are one program.
_adam = cache(optax.adam)


class _Surrogate(NamedTuple):
    """What one start learns.

    Attributes:
        params: of the head.
        scale: the logarithm of what its cotangents are multiplied by, [].
    """

    params: PyTree
    scale: jax.Array


# By identity of its functions, so one matching compiles once for the attack and controls.
class _Matching(NamedTuple):
    """What is matched: a form of head, a loss, classes, and how it learns."""

    head: Segment
    loss: LossFn
    classes: int
    optimizer: optax.GradientTransformation

    def candidates(
        self, params: PyTree, state: PyTree, key: jax.Array, h: PyTree
    ) -> jax.Array:
        """The head's cotangent of each record for each class, [classes, batch, numbers]."""

        def of(c: jax.Array) -> jax.Array:
            def total(h: PyTree) -> jax.Array:
                output, _ = self.head.apply(params, state, key, h, train=True)
                size = jax.tree.leaves(h)[0].shape[0]
                return self.loss(output, jnp.full(size, c)).sum()

            grads = jax.tree.leaves(jax.grad(total, allow_int=True)(h))
            flat = [
                g.reshape(len(g), -1) for g in grads if g.dtype != jax.dtypes.float0
            ]
            return jnp.concatenate(flat, axis=1).astype(jnp.float32)

        return jax.vmap(of)(jnp.arange(self.classes))

    def distances(
        self, own: _Surrogate, state: PyTree, key: jax.Array, h: PyTree, came: jax.Array
    ) -> jax.Array:
        """Mean squares between candidates and the cotangents that came, [batch, classes]."""
        ours = self.candidates(own.params, state, key, h) * jnp.exp(own.scale)
        return ((ours - came) ** 2).mean(-1).T


def _matched(
    match: _Matching,
    sent: PyTree,
    steps: int,
    restarts: int,
    batch: int,
    seen: Seen,
    key: jax.Array,
) -> tuple[np.ndarray, float]:
    """Margins by group of the best start, [records, groups], and what it leaves unmatched."""
    came = _scaled(seen.rows, seen.step, seen.steps)
    h, records = jax.tree.map(jnp.asarray, sent), len(seen.step)
    batch = min(batch, records)
    first, order, mask = jax.random.split(key, 3)
    # Statistics of a head stay as they start: they are not the surrogate's to learn.
    start = jax.vmap(lambda k: match.head.init(k, h))
    # One more than is used: of a single start nobody could tell that it is drawn.
    drawn, states = start(jax.random.split(first, restarts + 1))
    if all(bool((x == x[:1]).all()) for x in jax.tree.leaves(drawn)):
        raise ValueError(
            "`head` must draw its parameters from the key of `head.init`: a surrogate "
            "that starts from given ones is not one that knows the form alone."
        )
    params, state = jax.tree.map(lambda x: x[1:], (drawn, states))
    own = jax.vmap(partial(_level, match), (0, 0, None, None, None))(
        params, state, mask, jax.tree.map(lambda x: x[:batch], h), came[:batch]
    )
    memory = jax.vmap(match.optimizer.init)(own)
    # A loop of Python over one compiled step: in a scan convolutions are slow on a CPU.
    for number in range(steps):
        inside = jax.random.randint(
            jax.random.fold_in(order, number), (batch,), 0, records
        )
        own, memory = _step(match, own, memory, state, mask, h, came, inside)
    parts = []
    for low in range(0, records, CHUNK):
        inside = np.arange(low, min(low + CHUNK, records))
        parts.append(np.asarray(_measure(match, own, state, mask, h, came, inside)))
    distances = np.concatenate(parts, axis=1)
    left = distances.min(-1).mean(-1)
    chosen = int(np.nanargmin(left))
    return -distances[chosen], float(left[chosen])


@partial(jax.jit, static_argnames="steps")
def _scaled(x: jax.Array, step: jax.Array, steps: int) -> jax.Array:
    """Cotangents with a mean square of 1 in each step, whatever the loss was divided by."""
    largest = jax.ops.segment_max(jnp.abs(x).max(1), step, num_segments=steps)
    # By the largest first: squares of small cotangents would be 0 in 32 bits.
    x = x / jnp.maximum(largest, jnp.finfo(x.dtype).tiny)[step][:, None]
    counts = jax.ops.segment_sum(jnp.ones(len(x)), step, num_segments=steps)
    squares = jax.ops.segment_sum((x**2).mean(1), step, num_segments=steps) / counts
    return x / jnp.sqrt(jnp.where(squares > 0, squares, 1))[step][:, None]


def _level(
    match: _Matching,
    params: PyTree,
    state: PyTree,
    key: jax.Array,
    h: PyTree,
    came: jax.Array,
) -> _Surrogate:
    """A head whose cotangents start as long as those that came."""
    ours = match.candidates(params, state, key, h)
    ratio = (came**2).mean() / jnp.maximum((ours**2).mean(), 1e-20)
    return _Surrogate(params, jnp.log(jnp.maximum(ratio, 1e-20)) / 2)


@partial(jax.jit, static_argnames="match")
def _step(match, own, memory, state, key, h, came, inside):
    part, aim = jax.tree.map(lambda x: x[inside], h), came[inside]

    def one(own: _Surrogate, memory: PyTree, state: PyTree):
        def mismatch(own: _Surrogate) -> jax.Array:
            return match.distances(own, state, key, part, aim).min(1).mean()

        updates, new = match.optimizer.update(jax.grad(mismatch)(own), memory, own)
        return optax.apply_updates(own, updates), new

    return jax.vmap(one)(own, memory, state)


@partial(jax.jit, static_argnames="match")
def _measure(match, own, state, key, h, came, inside):
    part, aim = jax.tree.map(lambda x: x[inside], h), came[inside]
    return jax.vmap(match.distances, (0, 0, None, None, None))(
        own, state, key, part, aim
    )
