"""Weights of classes as weights of records: exact, by what every loss takes already.

A class counts by its weight in each mean over a batch, as with `weight=` of PyTorch's losses.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.trees import check_weight

ClassWeight = str | Mapping[int, float]
"""`"balanced"`, or by number of the class what it counts."""


def record_weights(
    given: ClassWeight, fields: Mapping[str, PyTree], label: str
) -> np.ndarray:
    """How much each record counts, by its class.

    Args:
        given: `"balanced"`: records / (classes * records of the class), as
            scikit-learn has it, so that all classes count alike and the mean over all
            records is 1; or a number for each class.
        fields: the training data, [records, ...].
        label: the field of class numbers, integers or booleans [records].

    Returns:
        float32 [records].

    Raises:
        ValueError: if the field is none of class numbers, or a class has no weight.
    """
    if label not in fields:
        known = ", ".join(f"`{n}`" for n in fields)
        raise ValueError(
            f"`label` must be the field of classes, one of {known}, got {shown(label)}."
        )
    classes = np.asarray(fields[label])
    if classes.dtype.kind not in "iub" or classes.ndim != 1:
        raise ValueError(
            f"`class_weight` needs class numbers in `{label}`, integers [records], got "
            f"{classes.dtype}{list(classes.shape)}; give `weight` by record instead."
        )
    found, place, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(
                '`class_weight` must be "balanced" or a number by class, got '
                f"{shown(given)}."
            )
        by_class = len(classes) / (len(found) * counts)
    elif isinstance(given, Mapping):
        by_class = _numbers(given, found)
    else:
        raise ValueError(
            f'`class_weight` must be "balanced" or a number by class, got {shown(given)}.'
        )
    return by_class[place].astype(np.float32)


def _numbers(given: Mapping[int, float], found: np.ndarray) -> np.ndarray:
    # A class that is forgotten would count by 1 in silence.
    if missing := [int(c) for c in found if int(c) not in given]:
        raise ValueError(
            f"`class_weight` has no number for {len(missing)} of {len(found)} classes of "
            "the data: give one for each."
        )
    weights = np.array([given[int(c)] for c in found], float)
    check_weight("`class_weight`", weights)
    return weights


def together(
    weight: ArrayLike | None, by_class: np.ndarray | None
) -> np.ndarray | None:
    """The product of weights by record and those by class; `None` where there is neither."""
    if weight is None or by_class is None:
        return by_class if weight is None else np.asarray(weight)
    own = np.asarray(weight)
    # Weights that are integers or truths are numbers like others: in their dtype a class's
    # weight of 0.5 would be 0.
    kept = own.dtype if jnp.issubdtype(own.dtype, jnp.inexact) else by_class.dtype
    # Weights of entries, [records, time], have the class's on each of them.
    return own.astype(kept) * by_class.reshape(-1, *[1] * (own.ndim - 1)).astype(kept)
