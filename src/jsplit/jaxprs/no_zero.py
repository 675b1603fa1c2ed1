"""Which constants of a program have no zero: those by which a product can be undone.

Read off the operations that compute them, as code computes the wavelengths of a time or a
place, `exp(-arange(n) / n)`, and 1 by 1 where they are given as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jsplit.jaxprs.flat import Atom, shape_of

LARGEST = 1 << 20
"""Entries of a constant that is looked at."""
_POSITIVE = {"cosh", "exp", "exp2", "logistic"}
_PRODUCTS = {"abs", "div", "integer_pow", "mul", "rsqrt", "sqrt", "square"}


def made_of(eqn: JaxprEqn) -> Sequence[Atom] | None:
    """What must have no zero, so that the result of an operation has none.

    Floats that vanish by being too small are not thought of.

    Args:
        eqn: an operation on constants that does not move them.

    Returns:
        Some of what it reads; `None` if its result may have one all the same.
    """
    name, given = eqn.primitive.name, eqn.invars
    if name in _POSITIVE:
        return []
    dtypes = [shape_of(v).dtype for v in (*given, *eqn.outvars)]
    if any(jnp.issubdtype(d, jax.dtypes.extended) for d in dtypes):
        return None  # a key is no number
    kinds = [d.kind for d in dtypes]
    if name == "pow" and kinds[0] == "f":
        return given[:1]
    # Of whole numbers 1 / 2 is 0, and of a product the last bits may be.
    if name == "convert_element_type":
        return given if kinds[1] in "fc" or kinds[0] in "iub" else None
    return given if name in _PRODUCTS and {*kinds} == {"f"} else None


def is_not_zero(value: object) -> bool:
    """Whether a constant has no zero; of a large one, or a key, it is not known."""
    if np.size(value) > LARGEST:  # type: ignore[arg-type]
        return False
    try:
        return bool(np.all(np.asarray(value) != 0))
    except TypeError:
        return False
