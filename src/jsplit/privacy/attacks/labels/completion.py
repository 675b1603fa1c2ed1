"""Model completion: a head of one's own on the bottom that one holds, from a few labels.

Training has taught the adversary's bottom to tell classes apart, whether it was meant to or
not. What is missing to the whole model is little, and few labels suffice to learn it.
"""

from __future__ import annotations

from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import as_positive_int, one_of
from jsplit.privacy.attacks.attack import key_or_default, pick, rows, seed_of
from jsplit.privacy.attacks.labels.fitting import Fit, completed
from jsplit.privacy.attacks.labels.judging import Judged, judge
from jsplit.privacy.attacks.labels.seen import (
    distinct,
    known_of,
    step_places,
    truth_of,
)
from jsplit.privacy.attacks.rates import check_rates
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Fu et al., Label inference attacks against vertical federated learning, 2022"
SHUFFLES = 3  # of the few known labels: one of them may by luck be nearly right


def model_completion(
    traffic: Traffic,
    label: PyTree,
    head: Segment,
    *,
    known: PyTree,
    classes: int,
    value: str | None = None,
    method: str = "semi-supervised",
    bottom: tuple[Segment, Params, State] | None = None,
    untrained: Traffic | None = None,
    active: bool = False,
    steps: int = 500,
    batch: int = 64,
    learning_rate: float = 2e-3,
    ids: PyTree = None,
    target: str = "label",
    key: jax.Array | None = None,
) -> Score:
    """Infer labels by a head that is fitted to a few of them, on activations.

    The client of a vertical split holds its trained bottom, so it has its activations;
    a server has those that it received. With a few labels it completes the model. An
    active adversary has trained its bottom by `malicious`, and then does the same.

    Args:
        traffic: activations of one model: an inference, or a single step. What the party
            sent is read, and what it received.
        label: the truth, [records], from 0 to `classes` - 1; the attack reads that of
            `known` records, and the score is held against the others.
        head: what it completes the model with: a segment of one input, the activation,
            whose output is logits [batch, classes]; without statistics as BatchNorm's.
        known: records whose label the adversary knows, booleans [records] or places.
        classes: how many.
        value: which activation, where there are several.
        method: "supervised": on known records alone; "semi-supervised": MixMatch, which
            also reads activations of the others, and no label of theirs.
        bottom: the adversary's own trained segment, its parameters and statistics, to
            be fitted further with the head. It reads fields of `traffic.fields`; by
            default activations stay as they are.
        untrained: the same records' activations by the bottom as it was before training,
            to see what training has added; by default not measured.
        active: whether the bottom was trained by `malicious`: it is said in the score.
        steps: of Adam.
        batch: records a step, of known ones and of others.
        learning_rate: of Adam.
        ids: [records], who a record is, where records occur several times.
        target: the name of the label, for the score.
        key: a PRNG key, for the start, the batches and the controls.

    Returns:
        Of two classes the AUC, and else the accuracy, of records that are not known.
        `control` is that of the same fit to shuffled known labels, the mean of three.
        `more` has "untrained head", "untrained bottom" (if given), "accuracy",
        "balanced accuracy" and "most frequent" (the share of that class).

    Raises:
        ValueError: if there is no activation, it is of several steps and so of several
            models, `known` has records of one class only, `head` has statistics or
            gives other shapes, or shapes do not fit.

    References:
        Fu et al., `Label inference attacks against vertical federated learning
        <https://www.usenix.org/conference/usenixsecurity22/presentation/fu-chong>`_,
        2022. Berthelot et al., `MixMatch <https://arxiv.org/abs/1905.02249>`_, 2019,
        with noise in the place of augmented pictures.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import Traffic, model_completion
        >>> draw = lambda key, h: jax.random.normal(key, (8, 3)) / 3
        >>> head = jsplit.segment(lambda w, h: h @ w, init=draw, inputs=["h"])
        >>> label = jnp.arange(90) % 3
        >>> h = jax.random.normal(jax.random.key(0), (90, 8)) + 3 * jnp.eye(8)[label]
        >>> seen = Traffic("client", jnp.zeros(90, int), sent={"h": h})
        >>> few, fast = jnp.arange(9), {"steps": 40, "method": "supervised"}
        >>> score = model_completion(seen, label, head, known=few, classes=3, **fast)
        >>> score.beats_chance
        True
    """
    start = perf_counter()
    one_of("method", method, ("supervised", "semi-supervised"))
    _check_counts(classes=classes, steps=steps, batch=batch)
    check_rates(learning_rate=learning_rate)
    key = key_or_default(key)
    inputs = _inputs(traffic, value, bottom)
    step = step_places(traffic)
    where = known_of(known, len(step))
    truth = truth_of(label, step, classes=classes, known=where, ids=ids)
    true = np.asarray(label).reshape(-1).astype(np.int64)
    _check_classes(true[where])
    fit = Fit(head, classes, bottom, method, steps, batch, learning_rate)

    def scored(fit: Fit, inputs: PyTree, told: np.ndarray) -> Judged:
        return judge(completed(fit, inputs, where, told, key)[truth.where], truth)

    found = scored(fit, inputs, true)
    seconds = perf_counter() - start
    rng = np.random.default_rng(seed_of(key))
    told = [_shuffled(true, where, rng) for _ in range(SHUFFLES)]
    control = float(np.mean([scored(fit, inputs, other).value for other in told]))
    more = {"untrained head": scored(fit._replace(steps=0), inputs, true).value}
    if untrained is not None:
        before = _inputs(untrained, value, None)
        more["untrained bottom"] = scored(fit._replace(bottom=None), before, true).value
    holds = (
        "its own bottom" if traffic.sent or bottom else "the activations it received"
    )
    return Score(
        "model completion",
        target,
        found.measure,
        found.value,
        found.interval,
        control,
        found.chance,
        True,
        _adversary(traffic.party, holds, distinct(where, ids), active),
        Budget(steps, distinct(step >= 0, ids), seconds),
        {**found.more, **more},
    )


def _adversary(party: str, holds: str, labels: int, active: bool) -> Adversary:
    """Who completes a model."""
    return Adversary(
        party,
        f"{holds}, {labels} records with their labels",
        active=active,
        labelled=labels,
        source=SOURCE,
    )


def _check_classes(known: np.ndarray) -> None:
    if len(np.unique(known)) < 2:
        raise ValueError(
            "`known` must have records of two classes at least, got one: no head can "
            "learn to tell classes apart from those."
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        as_positive_int(name, count)


def _inputs(
    traffic: Traffic, value: str | None, bottom: tuple[Segment, Params, State] | None
) -> PyTree:
    """What the model is completed on: activations, or the fields that a bottom reads."""
    step = step_places(traffic)
    if step.max() > 0:
        raise ValueError(
            f"`traffic` must be of one model, got {step.max() + 1} steps, between "
            "which it learned: take an inference of the records."
        )
    if bottom is None:
        values = {**traffic.received, **traffic.sent}
        name = pick(values, value, f"activations at {traffic.party!r}")
        rows(name, values[name], len(step))
        return jax.tree.map(jnp.asarray, values[name])
    reads = bottom[0].inputs or ()
    missing = [name for name in reads if name not in traffic.fields]
    if missing or not reads:
        raise ValueError(
            "`bottom` must read fields of `traffic.fields`, got one that reads "
            f"{', '.join(missing) or 'inputs without names'}."
        )
    fields = tuple(jax.tree.map(jnp.asarray, traffic.fields[name]) for name in reads)
    sizes = {x.shape[:1] for x in jax.tree.leaves(fields)}
    if sizes != {(len(step),)}:
        raise ValueError(
            f"`traffic.fields` must have one row for each of {len(step)} records, got "
            f"{sorted(sizes)}."
        )
    return fields


def _shuffled(
    true: np.ndarray, where: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Labels, those of known records exchanged among them."""
    found = true.copy()
    found[where] = rng.permutation(true[where])
    return found
