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
from jsplit.privacy.attacks.attack import (
    GAINED,
    gained,
    key_or_default,
    rows,
    seed_of,
    units,
)
from jsplit.privacy.attacks.labels.groups import groups_of
from jsplit.privacy.attacks.labels.seen import Seen, cotangents, noise_like
from jsplit.privacy.attacks.rates import check_rates
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Erdogan et al., UnSplit, 2022, label inference"
HOT, COLD = 0.3, 0.02  # of the soft minimum over classes, at the start and at the end
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
    steps: int = 400,
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
    adversary sees.

    Two things differ from the source, with which it finds labels of an untrained model
    alone. Directions are matched, not differences: once a model is nearly right most
    cotangents are too short to weigh. And the minimum over classes is soft at first.

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
        "mismatch", the mean of 1 - cosine that the best start leaves, "gained in the
        last tenth" of it, "untrained head", the score before the first step, and what
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
    check_rates(learning_rate=learning_rate)
    groups = groups_of(label, seen.step, classes, known, ids)
    rng = np.random.default_rng(seed_of(key))
    match = _Matching(head, loss, classes, _adam(learning_rate))
    run = partial(_matched, match, traffic.sent[seen.name], steps, restarts, batch)
    margins, mismatch, late = run(seen, key)
    found = groups.judged(margins, rng)
    seconds = perf_counter() - start
    noise, _, _ = run(noise_like(seen, jax.random.fold_in(key, 1)), key)
    untrained, before, _ = _matched(
        match, traffic.sent[seen.name], 0, restarts, batch, seen, key
    )
    more = {
        "mismatch": mismatch,
        GAINED: gained(before, late, mismatch),
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
        _adversary(traffic.party, groups.labelled),
        Budget(steps * restarts, groups.records, seconds, restarts),
        {**found.more, **more},
    )


def _adversary(party: str, labels: int) -> Adversary:
    """Who matches gradients."""
    known = f", {labels} records with their labels" if labels else ", no label"
    knows = f"the form of the head and the loss{known}"
    return Adversary(party, knows, labelled=labels, source=SOURCE)


# One optimizer of a rate, so that two attacks with the same head are one program.
_adam = cache(optax.adam)


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
        self, params: PyTree, state: PyTree, key: jax.Array, h: PyTree, came: jax.Array
    ) -> jax.Array:
        """1 - cosine of candidates to the cotangents that came, [batch, classes]."""
        ours = self.candidates(params, state, key, h)
        squares = (ours**2).sum(-1, keepdims=True)
        # Twice, as the gradient of a square root at 0 is infinite also where it is
        # not chosen.
        some = squares > 0
        lengths = jnp.sqrt(jnp.where(some, squares, 1))
        return 1 - (jnp.where(some, ours / lengths, 0) * came).sum(-1).T


def _matched(
    match: _Matching,
    sent: PyTree,
    steps: int,
    restarts: int,
    batch: int,
    seen: Seen,
    key: jax.Array,
) -> tuple[np.ndarray, float, float]:
    """Margins by group of the best start, [records, groups]; what it leaves unmatched, and
    what it left after nine tenths of the steps.
    """
    came = _units(seen.rows)
    h, records = jax.tree.map(jnp.asarray, sent), len(seen.step)
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
    own, state = jax.tree.map(lambda x: x[1:], (drawn, states))
    memory = jax.vmap(match.optimizer.init)(own)

    def measured(own: PyTree) -> np.ndarray:
        parts = []
        for low in range(0, records, CHUNK):
            inside = np.arange(low, min(low + CHUNK, records))
            part = _measure(match, own, state, mask, h, came, inside)
            parts.append(np.asarray(part))
        return np.concatenate(parts, axis=1)

    late = None
    # A loop of Python over one compiled step: in a scan convolutions are slow on a CPU.
    for number in range(steps):
        if number == 9 * steps // 10:
            late = measured(own)
        key, heat = jax.random.fold_in(order, number), HOT * (1 - number / steps) + COLD
        inside = _drawn(key, min(batch, records), records)
        own, memory = _step(match, own, memory, state, mask, h, came, inside, heat)
    distances = measured(own)
    left = distances.min(-1).mean(-1)
    chosen = int(np.nanargmin(left))
    before = left if late is None else late.min(-1).mean(-1)
    return -distances[chosen], float(left[chosen]), float(before[chosen])


_units = jax.jit(units)


@partial(jax.jit, static_argnames=("batch", "records"))
def _drawn(key: jax.Array, batch: int, records: int) -> jax.Array:
    return jax.random.randint(key, (batch,), 0, records)


@partial(jax.jit, static_argnames="match")
def _step(match, own, memory, state, key, h, came, inside, heat):
    part, aim = jax.tree.map(lambda x: x[inside], h), came[inside]

    def one(own: PyTree, memory: PyTree, state: PyTree):
        def mismatch(own: PyTree) -> jax.Array:
            distances = match.distances(own, state, key, part, aim)
            # A soft minimum, so that a class which no record is nearest to yet is
            # drawn along, and can become one's.
            return -heat * jax.nn.logsumexp(-distances / heat, axis=1).mean()

        updates, new = match.optimizer.update(jax.grad(mismatch)(own), memory, own)
        return optax.apply_updates(own, updates), new

    return jax.vmap(one)(own, memory, state)


@partial(jax.jit, static_argnames="match")
def _measure(match, own, state, key, h, came, inside):
    part, aim = jax.tree.map(lambda x: x[inside], h), came[inside]
    return jax.vmap(match.distances, (0, 0, None, None, None))(
        own, state, key, part, aim
    )
