"""A classifier of activations, learned on public ones, and how well it tells private ones apart.

What property and membership inference share: they differ in what is told, and in what
about an activation tells it.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.inputs.fitting import Fit, classed, fitted, outputs
from jsplit.privacy.attacks.inputs.networks import checked, dense
from jsplit.privacy.attacks.inputs.seen import Known, known_of, laid_out
from jsplit.privacy.attacks.rates import check_rates
from jsplit.privacy.measures.auc import leak_auc
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.rates import balanced_accuracy
from jsplit.privacy.measures.records import classes_of, paired

WIDTH = 64  # of the classifier's one hidden layer


class Telling(NamedTuple):
    """How a classifier is learned.

    Attributes:
        network: a segment of one input, or `None` for one hidden layer.
        steps: of Adam.
        batch: records a step.
        learning_rate: of Adam, falling to 0.
    """

    network: Segment | None
    steps: int
    batch: int
    learning_rate: float

    def checked(self) -> Telling:
        """The same.

        Raises:
            ValueError: if a number is not positive.
        """
        for name in ("steps", "batch"):
            as_positive_int(name, getattr(self, name))
        check_rates(learning_rate=self.learning_rate)
        return self


class Told(NamedTuple):
    """How well private records were told apart.

    Attributes:
        measure: "AUC" of two classes, "balanced accuracy" of more.
        found: it.
        control: the same where the classifier learned from shuffled classes.
        chance: what is reached without looking.
        seconds: of wall time, without the control.
    """

    measure: str
    found: Estimate
    control: float
    chance: float
    seconds: float


def classes(name: str, given: PyTree, like: np.ndarray | None = None) -> np.ndarray:
    """Classes 0, 1, ... of records, two at least.

    Args:
        name: of the argument, for the error.
        given: [records].
        like: those of other records, whose classes these must be.

    Returns:
        int [records].

    Raises:
        ValueError: if there is one class, one is negative or one that `like` lacks.
    """
    found = classes_of(name, given)
    # Nobody learns to tell what it has not seen.
    lacks = like is not None and not {*found.tolist()} <= {*like.tolist()}
    if found.min() < 0 or lacks or len(np.unique(found)) < 2:
        more = ", of those that are known of public records" if lacks else ""
        raise ValueError(
            f"`{name}` must hold classes 0, 1, ..., two of them at least{more}; got "
            "others."
        )
    return found


def told(
    how: Telling,
    answers: PyTree,
    known: np.ndarray,
    private: jax.Array,
    truth: np.ndarray,
    key: jax.Array,
    *,
    shapes: bool = False,
) -> Told:
    """Learn on public activations, and measure on private ones.

    Args:
        how: it is learned.
        answers: activations of public records.
        known: their classes.
        private: activations that came, [records, ...].
        truth: their classes.
        key: a PRNG key.
        shapes: whether the classifier is told of an activation's size and spread too.

    Returns:
        How well, and the control.
    """
    pairs = known_of(answers, known, private, "answers")
    paired("truth", truth, "traffic", private)
    if shapes:
        raw = laid_out("answers", answers, len(known))
        pairs = _with_shapes(pairs, raw, private)
    number = int(known.max()) + 1
    network = how.network or dense((WIDTH,), (number,))
    checked("network", network, pairs.private, (number,))
    fit = Fit(network, classed, how.steps, how.batch, how.learning_rate)

    def judged(pairs: Known) -> Estimate:
        params = fitted(fit, pairs.public, pairs.truth.astype(jnp.int32), key).params
        logits = np.asarray(outputs(network, params, pairs.private))
        if number == 2:
            return leak_auc(logits[:, 1] - logits[:, 0], truth)
        return balanced_accuracy(logits.argmax(1), truth)

    start = perf_counter()
    found = judged(pairs)
    seconds = perf_counter() - start
    control = judged(pairs.shuffled(jax.random.fold_in(key, 1)))
    measure, chance = "AUC", 0.5
    if number > 2:
        measure, chance = "balanced accuracy", 1 / len(np.unique(truth))
    return Told(measure, found, control.value, chance, seconds)


def _with_shapes(pairs: Known, answers: jax.Array, came: jax.Array) -> Known:
    """Standardised activations flat, with the shape of those that crossed behind."""

    def summed(h: jax.Array) -> jax.Array:
        # Of activations as they are: once each number is standardised, a unit that no
        # public record moves would be the largest of all.
        flat = h.reshape(len(h), -1)
        about = [jnp.linalg.norm(flat, axis=1), flat.std(1), jnp.abs(flat).max(1)]
        return jnp.stack([jnp.log(x + 1e-6) for x in about], axis=1)

    of_public, of_private = summed(answers), summed(came)
    mean, deviation = of_public.mean(0), of_public.std(0) + 1e-6
    # Three numbers among many would weigh too little for few records to show them.
    weight = max(1.0, (came[0].size / 3) ** 0.5)

    def beside(h: jax.Array, about: jax.Array) -> jax.Array:
        more = weight * (about - mean) / deviation
        return jnp.concatenate([h.reshape(len(h), -1), more], axis=1)

    return pairs._replace(
        public=beside(pairs.public, of_public),
        private=beside(pairs.private, of_private),
    )
