"""Signs: whether all entries that a primitive makes are positive, or negative.

A product with numbers of one sign turns no order around half way, so it can be undone.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jsplit.jaxprs.proving.facts import Fact

_POSITIVE = {"exp", "exp2", "logistic", "cosh"}
_PRODUCTS = {"mul", "div"}
_SUMS = {"add", "add_any", "sub"}


def _keeps_sign(before: np.dtype, after: np.dtype) -> bool:
    """Whether a conversion makes 0 of 0 alone: one to whole numbers makes it of 0.3."""
    real = jnp.issubdtype(after, jnp.floating)
    return real or (before.kind in "iu" and after.kind == "i")


def sign_of_result(name: str, facts: Sequence[Fact], dtype: np.dtype) -> int:
    """Whether all entries of the result are positive or negative."""
    if name in _POSITIVE:
        return 1
    signs = [f.sign for f in facts]
    if name == "neg":
        return -signs[0]
    if name == "convert_element_type" and not _keeps_sign(facts[0].dtype, dtype):
        return 0
    if name in ("convert_element_type", "sqrt", "tanh", "cbrt", "atan", "asinh"):
        return signs[0]
    if name in _PRODUCTS:
        # 1 // 2 is 0.
        return 0 if name == "div" and dtype.kind in "iu" else signs[0] * signs[1]
    if name == "sub":
        signs[1] = -signs[1]
    if name in _SUMS and signs[0] == signs[1]:
        return signs[0]
    return 0
