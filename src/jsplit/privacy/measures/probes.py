"""Probes: what a simple model, fitted on some records, reads off an activation of others.

Linear, or by nearest neighbours: if these can read a label or a field, so can whoever
receives the activation. That they cannot shows little: an attacker may try harder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, one_of, shown
from jsplit.privacy.measures.auc import leak_auc
from jsplit.privacy.measures.bootstrap import interval
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.rates import balanced_accuracy
from jsplit.privacy.measures.records import at_least, generator, host_flat, paired

Kind: TypeAlias = Literal["linear", "neighbours"]


@dataclass(frozen=True)
class Probe:
    """What a probe read, of records that it was not fitted on.

    Attributes:
        kind: "linear" or "neighbours".
        measure: "AUC" of two classes, "balanced accuracy" of more, "R2" of numbers.
        value: what it reached.
        control: the same probe where targets were shuffled among all records.
        chance: what is reached without looking.
        fitted: how many records it was fitted on.

    Example:
        >>> from jsplit.privacy import Estimate, Probe
        >>> found = Estimate(0.9, (0.85, 0.93), 300, "DeLong")
        >>> nothing = Estimate(0.51, (0.44, 0.58), 300, "DeLong")
        >>> print(Probe("linear", "AUC", found, nothing, 0.5, 700))
        linear probe, AUC: 0.9 [0.85, 0.93] of 300 records (shuffled 0.51, chance 0.5)
    """

    kind: Kind
    measure: str
    value: Estimate
    control: Estimate
    chance: float
    fitted: int

    def __str__(self) -> str:
        return (
            f"{self.kind} probe, {self.measure}: {self.value} (shuffled "
            f"{self.control.value:.2g}, chance {self.chance:.2g})"
        )


def probe(
    activation: PyTree,
    target: PyTree,
    key: jax.Array,
    kind: Kind = "linear",
    *,
    test: float = 0.3,
    neighbours: int = 5,
) -> Probe:
    """Measure what of a label or a field can be read off an activation.

    A target of integers or booleans is of classes: of two the AUC is measured, of
    more the balanced accuracy. A floating one is of numbers: R2, the share of the
    squared error about the mean of the fitted records that is found out, over
    all its numbers. The linear probe is a logistic regression, or a ridge regression
    whose strength is chosen on the records it is fitted on; activations are
    standardised by these. The interval is of the records tested, for the probe as
    it was fitted. By scikit-learn, on the host. As a metric:
    `jsplit.Metric("probe", lambda h, y: probe(h, y, key).value.value, ...)`.

    Args:
        activation: [records, ...], or a pytree of such arrays.
        target: [records] of classes, or [records, ...] floating.
        key: what the split, the shuffling and the bootstrap draw from.
        kind: "linear", or "neighbours" for k nearest neighbours.
        test: share of the records, of each class, that are tested on.
        neighbours: k.

    Returns:
        What was reached, and the control.

    Raises:
        ValueError: if records do not pair, one is not finite, a class has too few of
            them or there is only one, or a setting is out of range.

    References:
        Alain and Bengio, `Understanding intermediate layers using linear classifier
        probes <https://arxiv.org/abs/1610.01644>`_, 2016; the control: Hewitt and
        Liang, `Designing and interpreting probes with control tasks
        <https://arxiv.org/abs/1909.03368>`_, 2019.

    Example:
        >>> import jax, numpy as np
        >>> from jsplit.privacy import probe
        >>> h = np.random.default_rng(0).normal(size=(200, 4))
        >>> found = probe(h, h[:, 0] > 0, jax.random.key(0))
        >>> found.measure, found.value.value > 0.95, found.control.interval[0] < 0.5
        ('AUC', True, True)
    """
    one_of("kind", kind, ("linear", "neighbours"))
    neighbours = as_positive_int("neighbours", neighbours)
    x, classes = host_flat("activation", activation), is_classes(target)
    y = host_flat("target", target)
    paired("activation", x, "target", y)
    if classes:
        y = _classes(y)
    keys = jax.random.split(key, 4)
    shuffled = y[generator(keys[1]).permutation(len(y))]
    measure, chance = _measure(y, classes)
    values = []
    # The same split for both: a class then has as many records in each.
    for found, draw in ((y, keys[2]), (shuffled, keys[3])):
        fit, held = split_records(found if classes else None, len(x), keys[0], test)
        if len(fit) < neighbours and kind == "neighbours":
            raise ValueError(
                f"`neighbours` must be at most the {len(fit)} records fitted on, got "
                f"{neighbours}."
            )
        model = _fitted(kind, classes, x[fit], found[fit], neighbours)
        values.append(_reached(model, measure, x[held], found, fit, held, draw))
    return Probe(kind, measure, values[0], values[1], chance, len(fit))


def is_classes(target: PyTree) -> bool:
    """Whether a target is of classes: one array of integers or booleans, one a record."""
    leaves = jax.tree.leaves(target)
    whole = bool(leaves) and all(
        not jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves
    )
    return whole and len(leaves) == 1 and np.size(leaves[0]) == len(leaves[0])


def _classes(y: np.ndarray) -> np.ndarray:
    """Classes by their number in order, [records]."""
    kinds, found = np.unique(y.reshape(-1), return_inverse=True)
    if len(kinds) < 2:
        raise ValueError("`target` must have records of two classes at least, got one.")
    return found


def _measure(y: np.ndarray, classes: bool) -> tuple[str, float]:
    """What is measured of a target, and its chance."""
    if not classes:
        return "R2", 0.0
    kinds = int(y.max()) + 1
    return ("AUC", 0.5) if kinds == 2 else ("balanced accuracy", 1 / kinds)


def split_records(
    classes: np.ndarray | None, size: int, key: jax.Array, test: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split records at random into those to fit on and those to test on.

    Args:
        classes: [records], of each of which both get their share; None: of numbers.
        size: how many records there are.
        key: what is drawn from.
        test: share tested on, between 0 and 1.

    Returns:
        The numbers of both.

    Raises:
        ValueError: if `test` is no such share, or a class has fewer than 2 records to
            test or to fit on.
    """
    if not 0 < test < 1:
        raise ValueError(f"`test` must be between 0 and 1, got {shown(test)}.")
    draw = generator(key)
    groups = np.zeros(size, int) if classes is None else classes
    fit, held = [], []
    for group in np.unique(groups):
        rows = draw.permutation(np.flatnonzero(groups == group))
        count = round(test * len(rows))
        if min(count, len(rows) - count) < 2:
            each = "there are" if classes is None else "a class has"
            raise ValueError(
                f"2 records to fit on and 2 to test on are needed; {each} "
                f"{len(rows)}, and `test` is {test:g}."
            )
        held.append(rows[:count])
        fit.append(rows[count:])
    return np.concatenate(fit), np.concatenate(held)


def _fitted(
    kind: Kind, classes: bool, x: np.ndarray, y: np.ndarray, neighbours: int
) -> PyTree:
    """A pipeline of scikit-learn, fitted."""
    # Here and not at the top: importing jsplit imports no extra.
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "neighbours":
        near = KNeighborsClassifier if classes else KNeighborsRegressor
        model = near(neighbours)
    elif classes:
        # Balanced, as what is measured is; a rare class would else not be guessed.
        model = LogisticRegression(class_weight="balanced", max_iter=2000)
    else:
        model = RidgeCV(np.logspace(-3, 5, 9))
    return make_pipeline(StandardScaler(), model).fit(x, y)


def _reached(
    model: PyTree,
    measure: str,
    x: np.ndarray,
    target: np.ndarray,
    fit: np.ndarray,
    held: np.ndarray,
    key: jax.Array,
) -> Estimate:
    """What a fitted probe reaches of the records held back."""
    true = target[held]
    if measure == "AUC":
        return leak_auc(model.predict_proba(x)[:, 1], true)
    if measure == "balanced accuracy":
        return balanced_accuracy(model.predict(x), true)
    at_least(len(held), 2, "an R2")
    errors = ((model.predict(x).reshape(true.shape) - true) ** 2).sum(1)
    # About the mean of the fitted records: what is guessed without looking. About that
    # of the tested ones, which nobody knows, chance would lie below 0.
    about = ((target[fit].mean(0) - true) ** 2).sum(1)
    if not about.any():
        raise ValueError("`target` is the same in all records tested, so R2 is none.")

    def share(errors: np.ndarray, about: np.ndarray) -> float:
        floor = about.sum()
        # A resampling may draw records without any error to explain.
        return float(1 - errors.sum() / floor) if floor > 0 else 0.0

    ends = interval(share, [errors, about], key)
    return Estimate(share(errors, about), ends, len(held), "bootstrap")
