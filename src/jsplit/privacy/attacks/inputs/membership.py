"""Membership inference on the cut: whether a record was trained on, from its activation alone.

No loss and no output is looked at: a server without labels has neither. An untrained bottom
knows no member, so that is the control.
"""

from __future__ import annotations

import jax
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.privacy.attacks.attack import key_or_default
from jsplit.privacy.attacks.inputs.seen import received
from jsplit.privacy.attacks.inputs.telling import Telling, classes, told
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

SOURCE = "Shokri et al., Membership inference attacks, 2017, on activations"


def membership_inference(
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
    key: jax.Array | None = None,
) -> Score:
    """Infer from activations which records were trained on.

    A passive adversary that has activations of records of which it knows whether they
    were: of a shadow bottom that it trained itself on public records and aligned, or
    of some known members of this one. A classifier reads activations, with their
    norm, their spread and their largest entry.

    Args:
        traffic: what the adversary has seen: activations that came, of one model.
        truth: whether each record was trained on, booleans or 0 and 1, [records].
        answers: activations of records whose membership is known, [public, ...].
        known: whether these were trained on, [public].
        value: which activation, where several came.
        network: the classifier, a segment of one input, [batch, numbers + 3], that
            gives two logits; by default one hidden layer of 64.
        untrained: `answers` and `traffic` of the same records by a bottom that has not
            learned. Members are then no other than others, unless the records
            themselves differ: an AUC there means that the test is not one of
            membership, but of two populations.
        steps: of Adam.
        batch: records a step.
        learning_rate: of Adam, falling to 0.
        key: a PRNG key.

    Returns:
        The leak AUC. `control` is that of the untrained bottom; without one that of
        a classifier that learned from shuffled classes, which `more` has in any case.

    Raises:
        ValueError: if no activation came, shapes do not fit, or all are members.

    References:
        Shokri et al., `Membership inference attacks against machine learning models
        <https://arxiv.org/abs/1610.05820>`_, 2017, the attack model; Nasr, Shokri and
        Houmansadr, `Comprehensive privacy analysis of deep learning
        <https://arxiv.org/abs/1812.00910>`_, 2019, on outputs of layers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, membership_inference
        >>> member = jnp.arange(400) % 2
        >>> h = jax.random.normal(jax.random.key(0), (400, 5)) * (1 + member)[:, None]
        >>> seen = Traffic("server", jnp.zeros(200, int), {"h": h[:200]})
        >>> score = membership_inference(seen, member[:200], h[200:], member[200:])
        >>> score.beats_chance
        True
    """
    key = key_or_default(key)
    how = Telling(network, steps, batch, learning_rate).checked()
    had = _members("known", known)
    true = _members("truth", truth)
    came = received(traffic, value)
    found = told(how, answers, had, came, true, key, shapes=True)
    control = found.control
    more = {"shuffled members": found.control}
    if untrained is not None:
        before = received(untrained[1], value)
        of_before = told(how, untrained[0], had, before, true, key, shapes=True)
        control = of_before.found.value
    adversary = Adversary(
        traffic.party,
        f"activations of {len(had)} records, {int(had.sum())} of them known members",
        public=len(had),
        labelled=len(had),
        source=SOURCE,
    )
    return Score(
        "membership inference",
        "membership",
        found.measure,
        found.found.value,
        found.found.interval,
        control,
        found.chance,
        True,
        adversary,
        Budget(steps, len(came), found.seconds),
        more,
    )


def _members(name: str, given: PyTree) -> np.ndarray:
    found = classes(name, given)
    if found.max() > 1:
        raise ValueError(f"`{name}` must be 0 or 1 of each record; got others.")
    return found
