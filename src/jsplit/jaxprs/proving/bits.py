"""What floats keep of what can be undone in real numbers: nothing of `(x + 1e30) - 1e30`.

A rough bound of how large entries are, and of what part of that moves with the field, goes
along with what is proven; where few bits would be left nothing is claimed any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import cosh, exp, inf, log, pi, sqrt

import jax.numpy as jnp
import numpy as np

from jsplit.jaxprs.proving.facts import Bits, Fact
from jsplit.jaxprs.wrapping import bears_bits, lost_bits

_LEFT = 8.0
"""Times the spacing of floats: 3 bits of a field, 2**-20 of a float32."""

_ROOM = 16.0
"""Times the smallest normal number, and below the largest: for values between 1/16 and 16."""

_PRODUCTS = {"mul", "div", "dot_general", "conv_general_dilated"}
_SUMS = {"add", "add_any", "sub"}
_BASES = {"exp": 1.0, "exp2": log(2)}
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3}
_LOGS = {"log": 1.0, "log2": log(2), "acosh": 1.0, "asinh": 1.0, "log1p": 1.0}


def kept(
    name: str,
    params: Mapping[str, object],
    facts: Sequence[Fact],
    found: Sequence[Fact],
    nothing: Sequence[Fact],
) -> list[Fact]:
    """The results of a primitive, less what floats do not bear.

    Args:
        name: of the primitive.
        params: of the equation.
        facts: of its arguments.
        found: what is proven of the results in real numbers.
        nothing: the same results with nothing proven.
    """
    bearing = [f for f in facts if _bears(f)]
    if not bearing or not any(map(_bears, found)):
        return list(found)
    lost = max(f.bits.lost for f in bearing) + (_lost(facts) if name == "mul" else 0)
    bits = _of(name, params, facts, bearing)._replace(lost=lost)
    return [
        replace(f, bits=bits) if not _bears(f) or _borne(bits, f.dtype) else plain
        for f, plain in zip(found, nothing, strict=True)
    ]


def _lost(facts: Sequence[Fact]) -> int:
    """How many bits of whole numbers a product with those of the code loses."""
    values = [f.value() for f in facts if f.const and f.dtype.kind in "iu"]
    return sum(lost_bits(v[v != 0]) for v in values if v is not None)


def _bears(fact: Fact) -> bool:
    return fact.gives or fact.affine is not None or fact.curve is not None


def _borne(bits: Bits, dtype: np.dtype) -> bool:
    """Whether an array of these numbers has bits that move with the field."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return dtype.kind not in "iu" or bears_bits(bits.lost, dtype)
    info = jnp.finfo(dtype)
    # Without rounding there is nothing to lose, in floats of 8 bits too.
    moves = bits.part >= min(1.0, _LEFT * float(info.eps))
    least, most = float(info.tiny) * _ROOM, float(info.max) / _ROOM
    return moves and least <= bits.low and bits.high <= most


def _of(
    name: str,
    params: Mapping[str, object],
    facts: Sequence[Fact],
    bearing: Sequence[Fact],
) -> Bits:
    """What is kept of the result of a primitive."""
    own = [f.bits for f in bearing]
    bits = Bits(
        min(b.part for b in own), min(b.low for b in own), max(b.high for b in own)
    )
    if name in _SUMS and len(bearing) == 2:
        moves = min(b.part * b.low for b in own)
        high = own[0].high + own[1].high
        return Bits(min(bits.part, moves / high), max(b.low for b in own), high)
    if len(bearing) == 1 and len(facts) == 2:
        first = bearing[0] is facts[0]
        return _with_constant(name, params, bits, first, facts[1 if first else 0])
    return _unary(name, params, bits) if len(facts) == 1 else bits


def _with_constant(
    name: str, params: Mapping[str, object], x: Bits, first: bool, other: Fact
) -> Bits:
    """Of a sum, product or power with a number of the code; others are taken for 1 or 0."""
    if other.const is None or name not in {*_SUMS, *_PRODUCTS, "pow"}:
        return x
    value = other.value()
    if value is None:
        return Bits(0.0)
    sizes = np.abs(value.astype(complex if value.dtype.kind == "c" else float))
    if name == "dot_general":
        sizes = _largest(sizes, params, first)
    elif name == "conv_general_dilated":
        sizes = sizes.max(initial=0.0)
    # What is multiplied with 0 is not claimed.
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return x
    low, high = float(sizes.min()), float(sizes.max())
    if name in _SUMS:
        return Bits(x.part * x.low / (x.low + high), max(x.low, low), x.high + high)
    if name == "pow":
        return _power(x, float(value.flat[0])) if first else _base(x, abs(log(high)))
    if name == "div":
        if not first:
            return Bits(x.part, low / x.high, high / x.low)
        low, high = 1 / high, 1 / low
    return Bits(x.part, x.low * low, x.high * high)


def _largest(
    sizes: np.ndarray, params: Mapping[str, object], first: bool
) -> np.ndarray:
    """The largest of the numbers by which entries are multiplied for each result."""
    dims = params["dimension_numbers"]
    assert isinstance(dims, tuple)
    return sizes.max(axis=tuple(dims[0][1 if first else 0]), initial=0.0)


def _unary(name: str, params: Mapping[str, object], x: Bits) -> Bits:
    """Of a function of one number, by its slope at the least and the largest size."""
    h = x.high
    if name in _BASES:
        return _base(x, _BASES[name])
    if name in _POWERS:
        return _power(x, _POWERS[name])
    if name == "integer_pow":
        return _power(x, float(str(params["y"])))
    if name in _LOGS:
        size = max(1.0, *(abs(log(s)) for s in (x.low, h))) / _LOGS[name]
        small = min(x.low, 1.0) if name in ("log1p", "asinh") else 1.0
        return Bits(x.part / size, small, size)
    if name == "sinh":
        return Bits(x.part, x.low, _exp(h))
    if name in ("tanh", "logistic", "expm1", "erf", "erfc", "atan"):
        # How it rises where it is flattest.
        slope = {
            "tanh": lambda: 1 / cosh(min(h, 300)) ** 2,
            "logistic": lambda: _exp(-h),
            "expm1": lambda: _exp(-h),
            "erf": lambda: 2 / sqrt(pi) * _exp(-(h * h)),
            "erfc": lambda: 2 / sqrt(pi) * _exp(-(h * h)),
            "atan": lambda: 1 / (1 + h * h),
        }[name]()
        part = x.part * min(1.0, h * slope)
        if name in ("logistic", "erfc"):
            # Of 0 it is not 0, so what is near 0 moves little of it.
            return Bits(part * min(1.0, x.low), _exp(-h), 2.0)
        return Bits(part, min(x.low, 1.0), _exp(h) if name == "expm1" else min(h, 2.0))
    return x


def _base(x: Bits, by: float) -> Bits:
    """Of `exp(by x)`."""
    part = x.part * min(1.0, x.low * by)
    return Bits(part, _exp(-x.high * by), _exp(x.high * by))


def _power(x: Bits, by: float) -> Bits:
    try:
        ends = x.low**by, x.high**by
    except OverflowError:
        return Bits(0.0)
    return Bits(x.part, min(ends), max(ends))


def _exp(x: float) -> float:
    return inf if x > 700 else exp(x)
