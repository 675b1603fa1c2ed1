"""Primitives that work entry by entry: which of them can be undone, and who can undo them.

`x * 2 + 1`, `exp(x)` and `x + bias` give `x` away, the last up to the bias; `relu(x)`
gives only entries that it lets through; `abs(x)` and `x * y` give none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jsplit.jaxprs.proving.complexes import PARTS, parts
from jsplit.jaxprs.proving.facts import NONE, Fact, giving, with_sign
from jsplit.jaxprs.proving.signs import sign_of_result
from jsplit.jaxprs.wrapping import bears_factor

# Strictly rising or falling wherever they are defined. Where floats saturate, as tanh does
# far from 0, `bits` takes back what is proven here.
_RISING = {
    "acosh",
    "asinh",
    "atan",
    "atanh",
    "asin",
    "cbrt",
    "erf",
    "erf_inv",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "log2",
    "logistic",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
}
_RISING.discard("tan")  # it repeats
_FALLING = {"acos", "erfc", "neg", "rsqrt"}
_SMALL = 1 << 16
UNARY = _RISING | _FALLING | {"integer_pow", "not", "convert_element_type"}
UNARY |= {"reduce_precision", "bitcast_convert_type", "conj"}
# What keeps differing complex numbers apart, of all that does so with real ones.
_COMPLEX = {"conj", "convert_element_type", "log", "neg", "sqrt"}
SUMS = {"add", "add_any", "sub", "xor"}
PRODUCTS = {"mul", "div"}
THRESHOLDS = {"max", "min", "clamp"}
ENTRYWISE = UNARY | SUMS | PRODUCTS | THRESHOLDS | PARTS | {"pow"}


def entrywise(
    name: str, params: Mapping[str, object], facts: Sequence[Fact], result: Fact
) -> Fact:
    """What is proven of the result of a primitive of `ENTRYWISE`.

    Args:
        name: of the primitive.
        params: of the equation.
        facts: of its arguments.
        result: as `facts.plain` gives it.
    """
    if name in PARTS:
        return parts(name, facts, result)
    if name in UNARY:
        found = _unary(name, params, facts[0], result)
    elif name == "pow":
        found = _power(facts[0], facts[1], result)
    elif name in SUMS:
        found = _sum(name, facts[0], facts[1], result)
    elif name in PRODUCTS:
        found = _product(name, facts[0], facts[1], result)
    else:
        found = _threshold(name, facts, result)
    generic, distinct = _generic(name, params, facts, result)
    return replace(
        found,
        sign=0
        if result.dtype.kind == "c"
        else sign_of_result(name, facts, result.dtype),
        even=found.even or (not found.gives and all(map(is_even, facts))),
        generic=generic,
        distinct=distinct,
        spread=found.gives and _is_spread(name, facts),
    )


def _is_spread(name: str, facts: Sequence[Fact]) -> bool:
    """Whether each line has one number at a class's place and one elsewhere, whichever it is."""
    spread = [f.spread or (f.classes and f.even) for f in facts]
    if name in ("neg", "convert_element_type"):
        return spread[0]
    others = [f for f, own in zip(facts, spread, strict=True) if not own]
    linear = name in (*SUMS, *PRODUCTS) and name != "xor" and spread[0] != spread[-1]
    linear = linear and not (name == "div" and spread[1])
    return linear and is_even(others[0]) and not others[0].unknown


def _generic(
    name: str, params: Mapping[str, object], facts: Sequence[Fact], result: Fact
) -> tuple[bool, bool]:
    """Whether what is made of a parameter is still not 0, and its entries not equal."""
    own = [f for f in facts if not f.const]
    # Of a sum or product of two learned numbers this need not be so.
    if len(own) != 1 or not own[0].generic or result.dtype.kind in "iub":
        return False, False
    if name in PRODUCTS:
        # A mask of the code, say.
        values = [f.value() for f in facts if f.const]
        if any(v is None or not np.all(v) for v in values):
            return False, False
    elif name == "integer_pow":
        power = int(str(params["y"]))
        return power != 0, own[0].distinct and power % 2 == 1
    elif name not in SUMS and name not in UNARY or name == "bitcast_convert_type":
        return False, False
    return True, own[0].distinct and own[0].shape == result.shape


def is_even(x: Fact) -> bool:
    """Whether an array is equal along the last axis, or has but one entry there."""
    if x.even or x.shape[-1:] in ((), (1,)):
        return True
    # A large constant is computed only where a proof hangs on it.
    value = x.value() if np.prod(x.shape) <= _SMALL else None
    return value is not None and bool((value == value[..., :1]).all())


def _unary(name: str, params: Mapping[str, object], x: Fact, result: Fact) -> Fact:
    slope = x.slope
    rounds = False
    if x.dtype.kind == "c" and name not in _COMPLEX:
        if name != "integer_pow" or abs(int(str(params["y"]))) != 1:
            return result
    if name == "bitcast_convert_type":
        # What it makes is no number near the old one, so a later cast may lose anything.
        slope, rounds = 0, True
        if x.shape != result.shape:
            return replace(giving(result, [x], None, x.given()), rounded=True)
    elif name == "convert_element_type" or name == "reduce_precision":
        cast = _cast(name, x.dtype, result.dtype)
        if cast is None:
            return result
        rounds = cast
    elif name == "integer_pow":
        power = int(str(params["y"]))
        # 2048 ** 3 is 0 in 32 bits, as 0 is.
        if power % 2 == 0 or (x.dtype.kind in "iu" and power != 1):
            return result
        slope = slope if power > 0 else 0
    elif name in _FALLING or name == "not":
        slope = -slope
    found = giving(result, [x], x.ids, x.block)
    slope = 0 if result.dtype.kind == "c" else slope
    made = (
        ("complex", (x,)) if result.dtype.kind == "c" and x.dtype.kind == "f" else None
    )
    if x.made and x.made[0] == "index" and result.dtype.kind == "i":
        made = ("index", (_unary(name, params, x.made[1][0], result), x.made[1][1]))
    classes = x.classes and name in ("convert_element_type", "neg")
    rounded = found.rounded or rounds
    even = x.even and classes
    return replace(
        found, slope=slope, rounded=rounded, classes=classes, even=even, made=made
    )


def _power(x: Fact, power: Fact, result: Fact) -> Fact:
    """A power by one number of the code, or of one."""
    by, base = power.value(), x.value()
    if x.gives and by is not None and by.ndim == 0 and by.dtype.kind in "iuf":
        # Negative numbers have no power by one that is not whole.
        if result.dtype.kind == "c" or by == 0 or by % 2 == 0:
            return result
        found = giving(result, [x], x.ids, x.block)
        return replace(found, slope=x.slope if by > 0 else 0)
    if power.gives and base is not None and base.ndim == 0 and base.dtype.kind == "f":
        if result.dtype.kind == "c" or base <= 0 or base == 1:
            return result
        found = giving(result, [power], power.ids, power.block)
        return replace(found, slope=power.slope if base > 1 else -power.slope)
    return result


def _cast(name: str, before: np.dtype, after: np.dtype) -> bool | None:
    """Whether a conversion rounds; `None`: nothing of the value need be left."""
    if name == "reduce_precision":
        return True
    kinds = [
        "f" if jnp.issubdtype(d, jnp.floating) else np.dtype(d).kind
        for d in (before, after)
    ]
    if kinds == ["f", "f"] or kinds in (["i", "i"], ["u", "u"], ["u", "i"], ["i", "u"]):
        return after.itemsize < before.itemsize
    if kinds[0] == "b" or kinds[0] == kinds[1] or kinds == ["f", "c"]:
        return False
    # Class numbers and tokens are far below 2 ** 24, where float32 has no gaps.
    if kinds[0] in "iu" and kinds[1] == "f":
        return after.itemsize < 4
    return None


def _on(x: Fact, shape: tuple[int, ...]) -> np.ndarray | None:
    """Numbers of entries, broadcast as the primitive broadcasts its arguments."""
    return None if x.ids is None else np.broadcast_to(x.ids, shape)


def _sum(name: str, a: Fact, b: Fact, result: Fact) -> Fact:
    if a.gives and b.gives:
        if name == "xor":
            return result
        return _two_terms(a, b, -1 if name == "sub" else 1, result)
    if not (a.gives or b.gives):
        return result
    x, other = (a, b) if a.gives else (b, a)
    # Whoever has the other term takes it off; one of unknown records hides all.
    if not other.clean:
        return result
    found = giving(result, [x, other], _on(x, result.shape), x.block)
    slope = -x.slope if name == "sub" and x is b else x.slope
    slope = 0 if name == "xor" else slope
    made = ("shift", (x, b)) if name == "add" and x is a and b.const else None
    return replace(found, slope=slope, made=made)


def _two_terms(a: Fact, b: Fact, turn: int, result: Fact) -> Fact:
    """A sum of two functions of one entry, which rises if both do."""
    both = a.slope * b.slope * turn > 0 and not a.some and not b.some
    ids, others = _on(a, result.shape), _on(b, result.shape)
    if not both or ids is None or others is None or not np.array_equal(ids, others):
        return result
    # Only what the terms themselves give: entries beside them may be anything.
    return replace(giving(result, [a, b], ids), slope=a.slope)


def _product(name: str, a: Fact, b: Fact, result: Fact) -> Fact:
    if a.gives == b.gives or result.dtype.kind in "iu" and name == "div":
        return result
    x, other = (a, b) if a.gives else (b, a)
    if not other.clean:
        return result
    if result.dtype.kind in "iu":
        factor = other.value()
        if factor is None or not bears_factor(factor, result.dtype):
            return result
    other = with_sign(other)
    ids, block, some = _on(x, result.shape), x.block, False
    slope = x.slope * other.sign
    if name == "div" and x is b:
        slope = 0
    if other.const is not None:
        value = other.value()
        if value is None:
            return result
        zeros = value == 0
        if zeros.any():
            block = None
            ids = None if ids is None else np.where(zeros, NONE, ids)
    elif not other.sign and not other.generic:
        # What the observers have may be a mask, with zeros in it.
        some = True
    found = giving(result, [x, other], ids, block)
    return replace(
        found,
        slope=slope,
        some=found.some or (some and found.gives),
        classes=x.classes,
        even=x.classes and x.even and is_even(other),
    )


def _threshold(name: str, facts: Sequence[Fact], result: Fact) -> Fact:
    giver = [f for f in facts if f.gives]
    others = [f for f in facts if not f.gives]
    if len(giver) != 1 or not all(f.clean and not f.key for f in others):
        return result
    found = giving(result, facts, _on(giver[0], result.shape))
    return replace(found, some=True) if found.gives else result
