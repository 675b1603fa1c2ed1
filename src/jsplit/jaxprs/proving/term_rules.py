"""What primitives are to terms: which move entries, work entry by entry, or leave a value as it is.

Tables and functions of single equations; `terms` puts programs together of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jsplit.jaxprs.flat import shape_of

BROADCAST = "broadcast"
"""In the key of a move that repeats entries along new axes."""

KEEPING = frozenset({BROADCAST, "reshape", "transpose", "rev"})
"""Moves that leave no entry out: who has the result has what was moved."""

_SAME = frozenset(
    "copy copy_p device_put name pcast pvary reshard sharding_constraint squeeze "
    "expand_dims stop_gradient layout_constraint".split()
)
_PICKS = {"slice", "transpose", "rev"}
UNARY = frozenset(
    "abs acos acosh asin asinh atan atanh cbrt ceil convert_element_type cos cosh erf "
    "erf_inv erfc exp exp2 expm1 floor integer_pow is_finite log log1p log2 logistic "
    "neg not reduce_precision round rsqrt sign sin sinh sqrt square tan tanh".split()
)
"""Primitives of one argument that work entry by entry."""

ENTRYWISE = frozenset(
    "add add_any and atan2 clamp complex div eq ge gt le lt max min mul ne or pow rem "
    "select_n sub xor".split()
)
"""Primitives of several arguments that do."""

_NEUTRAL = {"add": 0.0, "add_any": 0.0, "mul": 1.0, "max": -inf, "min": inf}


def onto(
    shape: Sequence[int], wide: Sequence[int], dims: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Where the axes of an array lie in one that it is broadcast to.

    Args:
        shape: of the array.
        wide: of what it becomes.
        dims: the axis there of each of its axes; by default the last ones.

    Returns:
        Of each axis with several entries its place among those with several there.
    """
    first = len(wide) - len(shape)
    dims = range(first, len(wide)) if dims is None else dims
    places = np.cumsum([n != 1 for n in wide]) - 1
    return tuple(int(places[d]) for d, n in zip(dims, shape, strict=True) if n != 1)


def move_of(eqn: JaxprEqn) -> tuple[Hashable, ...] | None:
    """What an equation does that only moves or repeats entries; `None` of any other."""
    name, params = eqn.primitive.name, eqn.params
    if not eqn.invars:
        return None
    given, out = shape_of(eqn.invars[0]).shape, shape_of(eqn.outvars[0]).shape
    if name in _SAME:
        return "reshape", given, out
    if name == "broadcast_in_dim":
        wide = tuple(n for n in out if n != 1)
        return BROADCAST, wide, onto(given, out, params["broadcast_dimensions"])
    if name == "reshape":
        return None if params.get("dimensions") else ("reshape", given, out)
    if name in _PICKS:
        return name, given, *(str(p) for p in sorted(params.items(), key=str))
    return None


def keeps_numbers(before: np.dtype, after: np.dtype, rounding: bool) -> bool:
    """Whether a conversion keeps the numbers, or, with `rounding`, about so.

    Whole numbers are taken to be those of classes and tokens, below 2 ** 24.
    """
    old, new = kind_of(before), kind_of(after)
    if old == "b":
        return True
    if old in "iu":
        fits = after.itemsize >= min(4, before.itemsize)
        return new in "iuf" and (fits or (rounding and new == "f"))
    wide = after.itemsize >= before.itemsize
    return new == "c" or (new == old and (wide or rounding))


def kind_of(dtype: np.dtype) -> str:
    """The letter of a dtype, "f" of all floats; "" of PRNG keys."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return ""
    return "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind


def neutral(name: str, numbers: Sequence[float | None]) -> int | None:
    """Which argument a sum, product or bound is, whose other one does nothing."""
    if len(numbers) != 2:
        return None
    if name in _NEUTRAL:
        for i in (0, 1):
            if numbers[1 - i] == _NEUTRAL[name] and numbers[i] is None:
                return i
    second = {"sub": 0.0, "div": 1.0}.get(name)
    return 0 if second is not None and numbers[1] == second else None


def number_of(
    name: str, numbers: Sequence[float | None], dtype: np.dtype
) -> float | None:
    """The number that a primitive makes of numbers, where a curve is drawn by it."""
    if not numbers or any(n is None for n in numbers):
        return None
    given = [float(n) for n in numbers if n is not None]
    simple = {
        "neg": lambda: -given[0],
        "sign": lambda: float(np.sign(given[0])),
        "convert_element_type": lambda: given[0],
        "mul": lambda: given[0] * given[1],
        "add": lambda: given[0] + given[1],
        "sub": lambda: given[0] - given[1],
        "eq": lambda: float(given[0] == given[1]),
        "ne": lambda: float(given[0] != given[1]),
        "lt": lambda: float(given[0] < given[1]),
        "gt": lambda: float(given[0] > given[1]),
        "select_n": lambda: given[1 + int(given[0])],
        "log": lambda: float(np.log(given[0])) if given[0] > 0 else None,
        "sqrt": lambda: float(np.sqrt(given[0])) if given[0] >= 0 else None,
    }
    if name == "div":
        return given[0] / given[1] if given[1] and kind_of(dtype) == "f" else None
    if name not in simple:
        return None
    found = simple[name]()
    if found is None or name != "convert_element_type":
        return found
    # Of a number that is not whole an integer is another.
    return found if kind_of(dtype) == "f" or found == int(found) else None
