"""Property inference: what an activation tells of its record beside the task.

A bottom that learned to find pneumonia may pass on sex or hospital as well, and nobody asked
for that.
"""

from __future__ import annotations

import jax
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.privacy.attacks.attack import key_or_default
from jsplit.privacy.attacks.inputs.seen import received
from jsplit.privacy.attacks.inputs.telling import Telling, classes, told
from jsplit.privacy.measures.records import at_least
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Song and Shmatikov, Overlearning reveals sensitive attributes, 2020"


def property_inference(
    traffic: Traffic,
    truth: PyTree,
    answers: PyTree,
    known: PyTree,
    *,
    value: str | None = None,
    network: Segment | None = None,
    untrained: tuple[PyTree, Traffic] | None = None,
    steps: int = 400,
    batch: int = 64,
    learning_rate: float = 3e-3,
    target: str = "property",
    key: jax.Array | None = None,
) -> Score:
    """Infer a property of records from their activations, by a classifier.

    A passive adversary that has activations of public records of which it knows the
    property: from a copy of the bottom, from questions to it, or from records that it
    has as well.

    Args:
        traffic: what the adversary has seen: activations that came, of one model.
        truth: the property of those records, [records], classes 0, 1, ...
        answers: activations of public records, [public, ...], by the same bottom and
            link.
        known: the property of those, [public].
        value: which activation, where several came.
        network: the classifier, a segment of one input that gives a logit a class; by
            default one hidden layer of 64.
        untrained: `answers` and `traffic` of the same records by a bottom that has not
            learned: `more` then has "untrained bottom". What that gives away is in
            the records; what is more than that, or less, is training's.
        steps: of Adam.
        batch: records a step.
        learning_rate: of Adam, falling to 0.
        target: the name of the property, for the score.
        key: a PRNG key.

    Returns:
        Of two classes the leak AUC, of more the balanced accuracy. `control` is that
        of a classifier that learned from shuffled classes.

    Raises:
        ValueError: if no activation came, shapes do not fit, or there is one class.

    References:
        Song and Shmatikov, `Overlearning reveals sensitive attributes
        <https://arxiv.org/abs/1905.11742>`_, 2020; Melis et al., `Exploiting
        unintended feature leakage in collaborative learning
        <https://arxiv.org/abs/1805.04049>`_, 2019.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, property_inference
        >>> h = jax.random.normal(jax.random.key(0), (200, 5))
        >>> old = (h[:, 0] > 0).astype(int)
        >>> seen = Traffic("server", jnp.zeros(80, int), {"h": h[:80]})
        >>> score = property_inference(seen, old[:80], h[80:], old[80:], steps=50)
        >>> score.beats_chance
        True
    """
    key = key_or_default(key)
    how = Telling(network, steps, batch, learning_rate).checked()
    had = classes("known", known)
    true = classes("truth", truth, like=had)
    at_least(len(had), 4, "`known`")
    came = received(traffic, value)
    found = told(how, answers, had, came, true, key)
    more = {}
    if untrained is not None:
        before = received(untrained[1], value)
        of_before = told(how, untrained[0], had, before, true, key)
        more["untrained bottom"] = of_before.found.value
    return Score(
        "property inference",
        target,
        found.measure,
        found.found.value,
        found.found.interval,
        found.control,
        found.chance,
        True,
        _adversary(traffic.party, had),
        Budget(steps, len(came), found.seconds),
        more,
    )


def _adversary(party: str, known: np.ndarray) -> Adversary:
    """Who infers a property."""
    return Adversary(
        party,
        f"activations of {len(known)} records whose property it knows",
        public=len(known),
        labelled=len(known),
        source=SOURCE,
    )
