"""The rates and weights by which an attack learns, looked at before it does.

An attack whose rate is NaN, or goes the wrong way, finds nothing, and that would look like a
defence.
"""

from __future__ import annotations

from math import isfinite
from numbers import Real

import numpy as np

from jsplit.core.checks import shown


def check_rates(**rates: object) -> None:
    """Refuse rates that are not positive and finite.

    Args:
        **rates: by the name of the argument.

    Raises:
        ValueError: naming it.
    """
    for name, value in rates.items():
        if not 0 < _number(value):
            raise ValueError(
                f"`{name}` must be a positive, finite number, got {shown(value)}."
            )


def check_weights(**weights: object) -> None:
    """Refuse weights that are not finite, or negative.

    Args:
        **weights: by the name of the argument.

    Raises:
        ValueError: naming it.
    """
    for name, value in weights.items():
        if not 0 <= _number(value):
            raise ValueError(
                f"`{name}` must be a finite number and not negative, got {shown(value)}."
            )


def several(name: str, given: object, count: int) -> dict[str, object]:
    """So many numbers of one argument, each by a name of its own.

    Args:
        name: of the argument.
        given: a sequence of them.
        count: how many there must be.

    Raises:
        ValueError: if it is none, or of another length.
    """
    if not isinstance(given, (list, tuple)) or len(given) != count:
        raise ValueError(f"`{name}` must be {count} numbers, got {shown(given)}.")
    return {f"{name}[{i}]": x for i, x in enumerate(given)}


def _number(value: object) -> float:
    """A number as a float; NaN where it is none, or infinite."""
    # What NumPy and JAX compute is an array of no axis.
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "aval"):
        value = np.asarray(value).item() if np.ndim(value) == 0 else None  # type: ignore
    if isinstance(value, bool) or not isinstance(value, Real):
        return float("nan")
    found = float(value)
    return found if isfinite(found) else float("nan")
