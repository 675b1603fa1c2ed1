"""Pieces of curves between two places: what primitives make of their values and derivatives.

Both are ranges, by the rules of intervals (Moore, Interval analysis, 1966), so that what is
said of a piece is so of each number in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import copysign, inf, isfinite

from jsplit.jaxprs.proving.facts import Piece, Range
from jsplit.jaxprs.proving.slopes import LEAST, SLOPES

SAME = {"copy", "stop_gradient", "broadcast_in_dim", "convert_element_type", "reshape"}
"""Primitives that leave numbers as they are."""


def rises(piece: Piece) -> bool:
    """Whether a piece rises or falls strictly."""
    low, high = piece.slope
    return (low >= 0 and high > 0) or (low < 0 and high <= 0)


def narrowed(piece: Piece, low: float, high: float) -> Piece:
    """A piece between two places, with the range of its values there."""
    if not rises(piece):
        return piece
    least, most = piece.value
    limits = (least, most) if piece.slope[0] >= 0 else (most, least)
    ends = [
        piece.at(at) if isfinite(at) else limit
        for at, limit in zip((low, high), limits, strict=True)
    ]
    return piece._replace(value=(min(ends), max(ends)))


def flat(number: float) -> Piece:
    return Piece(lambda x: number, (number, number), (0.0, 0.0))


def times(a: Range, b: Range) -> Range:
    if a == (0.0, 0.0) or b == (0.0, 0.0):
        return 0.0, 0.0
    # 0 times infinity is 0: ranges are without their ends.
    found = [x * y if x and y else 0.0 for x in a for y in b]
    return min(found), max(found)


def _plus(a: Range, b: Range, sign: int = 1) -> Range:
    b = b if sign == 1 else (-b[1], -b[0])
    return a[0] + b[0], a[1] + b[1]


def made(name: str, parts: Sequence[Piece]) -> Piece | None:
    a = parts[0]
    if name in SAME:
        return a
    if name in SLOPES:
        function, slope = SLOPES[name]
        least = LEAST.get(name, -inf)
        if a.value[0] < least or (name == "log1p" and a.value[0] <= least):
            return None
        ends = [_safe(function, x) for x in a.value]
        value = min(ends), max(ends)
        slopes = slope(a.value)
        return Piece(lambda x: _safe(function, a.at(x)), value, times(slopes, a.slope))
    if name == "select_n":
        # In a piece the choice is the same everywhere.
        low, high = a.value
        return parts[1 + int(low)] if low == high and low in (0.0, 1.0) else None
    return BINARY[name](a, parts[1])


def _safe(function: Callable[[float], float], x: float) -> float:
    try:
        return function(x)
    except OverflowError:
        return inf


def _sum(a: Piece, b: Piece) -> Piece:
    slope = _plus(a.slope, b.slope)
    return Piece(lambda x: a.at(x) + b.at(x), _plus(a.value, b.value), slope)


def _difference(a: Piece, b: Piece) -> Piece:
    slope = _plus(a.slope, b.slope, -1)
    return Piece(lambda x: a.at(x) - b.at(x), _plus(a.value, b.value, -1), slope)


def _product(a: Piece, b: Piece) -> Piece:
    slope = _plus(times(a.slope, b.value), times(a.value, b.slope))
    return Piece(lambda x: a.at(x) * b.at(x), times(a.value, b.value), slope)


def _quotient(a: Piece, b: Piece) -> Piece | None:
    low, high = b.value
    if low < 0 < high or low == high == 0:
        return None
    ends = sorted(1 / x if x else copysign(inf, low + high) for x in b.value)
    inverse = ends[0], ends[1]
    slope = _plus(
        times(a.slope, inverse),
        times(times(a.value, b.slope), times(inverse, inverse)),
        -1,
    )
    if _is_line(a) and _is_line(b) and low != high:
        # Of two straight lines it rises or falls everywhere, as x / (1 + x) does; by a
        # number it is a straight line still, of which the slope is known.
        by = a.slope[0] * b.at(0.0) - a.at(0.0) * b.slope[0]
        slope = (0.0, inf) if by > 0 else (-inf, 0.0) if by < 0 else (0.0, 0.0)
    return Piece(lambda x: _over(a.at(x), b.at(x)), times(a.value, inverse), slope)


def _is_line(piece: Piece) -> bool:
    return piece.slope[0] == piece.slope[1]


def _over(a: float, b: float) -> float:
    return a / b if b else inf


def _differs(a: Piece, b: Piece) -> Piece | None:
    # As `f != f`, which asks for NaN.
    return flat(0.0) if a is b else None


def _equals(a: Piece, b: Piece) -> Piece | None:
    # No entry is infinite, as `nan_to_num` asks.
    return flat(0.0) if inf in map(abs, b.value) and b.slope == (0.0, 0.0) else None


BINARY: dict[str, Callable[[Piece, Piece], Piece | None]] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _difference,
    "mul": _product,
    "div": _quotient,
    "eq": _equals,
    "ne": _differs,
}
