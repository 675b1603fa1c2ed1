"""Curves put together of pieces, as `leaky_relu` or `softplus`: which of them can be undone.

Between places that the code says, each has a range of its derivative by the rules of intervals.
One that has the same sign in all pieces, which meet or leave a gap in that direction, can
be undone, though none of the primitives alone shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from jsplit.jaxprs.proving.facts import Curve, Fact, Piece, Range, giving
from jsplit.jaxprs.proving.slopes import LEAST, SLOPES

_ORDERS = {"ge": 1, "gt": 1, "lt": -1, "le": -1}
_FOLDS = {"max", "min", "abs", "sign", "even power", "odd power"}
_AT_ZERO = _FOLDS - {"max", "min"}
_SAME = {"copy", "stop_gradient", "broadcast_in_dim", "convert_element_type", "reshape"}


def curved(name: str, facts: Sequence[Fact], found: Fact) -> Fact:
    """A result with the curve that it is, and what that gives away.

    Args:
        name: of the primitive.
        facts: of its arguments.
        found: what is proven of the result without curves.
    """
    known = {*SLOPES, *_ORDERS, *_FOLDS, *_BINARY, "select_n"}
    same = name in _SAME and facts[0].curve is not None
    if name == "convert_element_type":
        size = facts[0].dtype.itemsize
        same = same and found.dtype.kind == "f" and found.dtype.itemsize >= size
    if not (name in known or same):
        return found
    roots = [_root(f) for f in facts]
    different = {id(r): r for r in roots if r is not None}
    if len(different) != 1:
        return found
    (root,) = different.values()
    curves = [_curve(f, root) for f in facts]
    shapes = {f.shape for f, r in zip(facts, roots, strict=True) if r is not None}
    if found.shape != root.shape or shapes != {root.shape} or None in curves:
        return found
    curve = drawn(name, [c for c in curves if c is not None], root)
    if curve is None:
        return found
    found = replace(found, curve=curve)
    rises = direction(curve)
    # A sum that is only scaled is a sum still, to which others may be added.
    summed = found.affine is not None and found.affine.pure
    if not rises or summed or (found.gives and not found.some):
        return found
    given = giving(replace(found, ids=None, block=None), [root], root.ids, root.block)
    return replace(
        given,
        slope=rises * root.slope,
        affine=root.affine and root.affine._replace(pure=False),
        key=given.key | root.key,
        rounded=given.rounded or root.rounded,
    )


def _root(fact: Fact) -> Fact | None:
    """The array that another is a curve of: itself, where it gives something away."""
    if fact.curve is not None:
        return fact.curve.of
    known = fact.ids is not None or fact.affine is not None
    return fact if known and fact.dtype.kind == "f" else None


def _curve(fact: Fact, root: Fact) -> Curve | None:
    if fact is root:
        return straight(root)
    if fact.curve is not None:
        return fact.curve
    value = fact.value()
    if value is None or value.dtype.kind not in "fiub" or not value.size:
        return None
    if not (value == value.flat[0]).all():
        return None
    return level(float(value.flat[0]), root)


def straight(root: Fact | None = None) -> Curve:
    """An array as a curve of itself."""
    return Curve(root, (Piece(lambda x: x, (-inf, inf), (1.0, 1.0)),))


def level(number: float, root: Fact | None = None) -> Curve:
    """One number whatever the array is."""
    return Curve(root, (_flat(number),))


def drawn(name: str, curves: Sequence[Curve], root: Fact | None = None) -> Curve | None:
    """The curve that a primitive makes of curves of one array; `None`: none is known.

    Args:
        name: of the primitive, or "even power" or "odd power".
        curves: of its arguments.
        root: the array.
    """
    if name in _FOLDS or name in _ORDERS:
        return _folded(name, curves, root)
    if name not in {*SLOPES, *_BINARY, *_SAME, "select_n"}:
        return None
    cuts = tuple(sorted({c for curve in curves for c in curve.cuts}))
    pieces = [_made(name, [_piece(c, at) for c in curves]) for at in _inside(cuts)]
    # At a cut itself each has a value, which need be that of neither side.
    points = [_made(name, [_flat(_value(c, at)) for c in curves]) for at in cuts]
    if None in pieces or None in points:
        return None
    values = tuple(p.at(0.0) for p in points if p is not None)
    return Curve(root, tuple(p for p in pieces if p is not None), cuts, values)


def _folded(name: str, curves: Sequence[Curve], root: Fact | None) -> Curve | None:
    """A straight line compared with a number, or folded there."""
    first, sign = curves[0], _ORDERS.get(name, 0)
    other = 0.0 if name in _AT_ZERO else _constant(curves[1])
    if name not in _AT_ZERO and _constant(first) is not None:
        first, other, sign = curves[1], _constant(first), -sign
    line = first.pieces[0]
    by = line.slope[0]
    if first.cuts or other is None or line.slope != (by, by) or not by:
        return None
    place = (other - line.at(0.0)) / by
    if sign:
        pieces = [_flat(float(side * sign > 0)) for side in (-1, 1)]
        point = float(name in ("ge", "le"))
    elif name == "sign":
        pieces, point = [_flat(-1.0), _flat(1.0)], 0.0
    elif name.endswith("power"):
        # As of a square, with the sign of the line or not: how steep is no matter.
        up = Piece(
            lambda x: line.at(x) ** 2, (0.0, inf), _times((0.0, inf), line.slope)
        )
        sign = -1.0 if name == "odd power" else 1.0
        down = Piece(
            lambda x: sign * line.at(x) ** 2,
            (0.0, inf) if sign > 0 else (-inf, 0.0),
            _times((-inf, 0.0) if sign > 0 else (0.0, inf), line.slope),
        )
        pieces, point = [down, up], 0.0
    else:
        turned = Piece(lambda x: -line.at(x), (-inf, inf), (-by, -by))
        kept = {"max": (_flat(other), line), "min": (line, _flat(other))}
        pieces = [*kept.get(name, (turned, line))]
        point = other
    # A falling line is above the number before it.
    pieces = pieces if by > 0 else pieces[::-1]
    return _within(Curve(root, tuple(pieces), (place,), (point,)))


def _value(curve: Curve, place: float) -> float:
    """The value of a curve at a place."""
    if place in curve.cuts:
        return curve.points[curve.cuts.index(place)]
    return _piece(curve, place).at(place)


def _within(curve: Curve) -> Curve:
    """Ranges of the values of an array itself, where it is cut."""
    ends = (-inf, *curve.cuts, inf)
    pieces = [
        p._replace(value=tuple(sorted((p.at(low), p.at(high))))) if any(p.slope) else p
        for p, low, high in zip(curve.pieces, ends, ends[1:], strict=False)
    ]
    return curve._replace(pieces=tuple(pieces))


def _flat(number: float) -> Piece:
    return Piece(lambda x: number, (number, number), (0.0, 0.0))


def _constant(curve: Curve) -> float | None:
    (low, high) = curve.pieces[0].value
    return low if not curve.cuts and low == high else None


def _inside(cuts: Sequence[float]) -> list[float]:
    """A place inside of each piece."""
    if not cuts:
        return [0.0]
    middles = [(a + b) / 2 for a, b in zip(cuts, cuts[1:], strict=False)]
    return [cuts[0] - 1, *middles, cuts[-1] + 1]


def _piece(curve: Curve, place: float) -> Piece:
    return curve.pieces[sum(c < place for c in curve.cuts)]


def _times(a: Range, b: Range) -> Range:
    if a == (0.0, 0.0) or b == (0.0, 0.0):
        return 0.0, 0.0
    # 0 times infinity is 0: ranges are without their ends.
    found = [x * y if x and y else 0.0 for x in a for y in b]
    return min(found), max(found)


def _plus(a: Range, b: Range, sign: int = 1) -> Range:
    b = b if sign == 1 else (-b[1], -b[0])
    return a[0] + b[0], a[1] + b[1]


def _made(name: str, parts: Sequence[Piece]) -> Piece | None:
    a = parts[0]
    if name in _SAME:
        return a
    if name in SLOPES:
        function, slope = SLOPES[name]
        least = LEAST.get(name, -inf)
        if a.value[0] < least or (name == "log1p" and a.value[0] <= least):
            return None
        ends = [_safe(function, x) for x in a.value]
        value = min(ends), max(ends)
        slopes = slope(a.value)
        return Piece(lambda x: _safe(function, a.at(x)), value, _times(slopes, a.slope))
    if name == "select_n":
        # In a piece the choice is the same everywhere.
        low, high = a.value
        return parts[1 + int(low)] if low == high and low in (0.0, 1.0) else None
    return _BINARY[name](a, parts[1])


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


def _product(a: Piece, b: Piece) -> Piece | None:
    x, by = (a, b) if b.value[0] == b.value[1] else (b, a)
    if by.value[0] != by.value[1]:
        return None
    value, slope = _times(x.value, by.value), _times(x.slope, by.value)
    return Piece(lambda t: x.at(t) * by.value[0], value, slope)


def _quotient(a: Piece, b: Piece) -> Piece | None:
    low, high = b.value
    if low != high or not low:
        return None
    return _product(a, _flat(1 / low))


def _differs(a: Piece, b: Piece) -> Piece | None:
    # As `f != f`, which asks for NaN.
    return _flat(0.0) if a is b else None


_BINARY: dict[str, Callable[[Piece, Piece], Piece | None]] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _difference,
    "mul": _product,
    "div": _quotient,
    "ne": _differs,
}


def direction(curve: Curve) -> int:
    """+1 or -1 if the curve strictly rises or falls from end to end, else 0."""
    for sign in (1, -1):
        slopes = [
            p.slope if sign == 1 else (-p.slope[1], -p.slope[0]) for p in curve.pieces
        ]
        strict = all(low > 0 or (low == 0 and high > 0) for low, high in slopes)
        ends = zip(
            curve.cuts, curve.points, curve.pieces, curve.pieces[1:], strict=False
        )
        if strict and all(
            sign * (point - a.at(c)) >= 0 and sign * (b.at(c) - point) >= 0
            for c, point, a, b in ends
        ):
            return sign
    return 0
