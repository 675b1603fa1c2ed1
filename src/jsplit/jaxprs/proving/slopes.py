"""Functions of one number that rise where they are defined, with the range of their derivative.

Of a range of arguments, without its ends, that of the derivative there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import (
    asinh,
    atan,
    cbrt,
    erf,
    erfc,
    exp,
    expm1,
    inf,
    log,
    log1p,
    pi,
    sinh,
    sqrt,
    tanh,
)

from jsplit.jaxprs.proving.facts import Range


def _exp(x: float) -> float:
    return inf if x > 700 else exp(x)


SLOPES: dict[str, tuple[Callable[[float], float], Callable[[Range], Range]]] = {
    "neg": (lambda x: -x, lambda r: (-1.0, -1.0)),
    "exp": (exp, lambda r: (_exp(r[0]), _exp(r[1]))),
    "expm1": (expm1, lambda r: (_exp(r[0]), _exp(r[1]))),
    "log1p": (log1p, lambda r: (1 / (1 + r[1]), 1 / (1 + r[0]))),
    "tanh": (tanh, lambda r: (0.0, 1.0)),
    "logistic": (lambda x: 0.5 + 0.5 * tanh(x / 2), lambda r: (0.0, 0.25)),
    "asinh": (asinh, lambda r: (0.0, 1.0)),
    "atan": (atan, lambda r: (0.0, 1.0)),
    "sinh": (sinh, lambda r: (1.0, inf)),
    "erf": (erf, lambda r: (0.0, 2 / sqrt(pi))),
    "erfc": (erfc, lambda r: (-2 / sqrt(pi), 0.0)),
    "cbrt": (cbrt, lambda r: (0.0, inf)),
    "exp2": (lambda x: 2.0**x, lambda r: (0.0, inf)),
    "log": (lambda x: log(x) if x > 0 else -inf, lambda r: (0.0, inf)),
    "sqrt": (lambda x: sqrt(max(x, 0.0)), lambda r: (0.0, inf)),
}
"""By primitive, itself and the range of its derivative."""

LEAST = {"log1p": -1.0, "log": 0.0, "sqrt": 0.0}
"""Of some the least number that they are defined for."""
