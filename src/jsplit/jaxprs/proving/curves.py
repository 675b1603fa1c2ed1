"""Curves put together of pieces, as `leaky_relu` or `softplus`: which of them can be undone.

Between places that the code says, each has a range of its derivative by the rules of intervals.
One that has the same sign in all pieces, which meet or leave a gap in that direction, can
be undone, though none of the primitives alone shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from jsplit.jaxprs.proving.facts import Curve, Fact, Piece, giving
from jsplit.jaxprs.proving.pieces import BINARY, SAME, flat, made, narrowed, times
from jsplit.jaxprs.proving.slopes import SLOPES

_ORDERS = {"ge": 1, "gt": 1, "lt": -1, "le": -1}
_FOLDS = {"max", "min", "abs", "sign", "even power", "odd power"}
_AT_ZERO = _FOLDS - {"max", "min"}


def curved(name: str, facts: Sequence[Fact], found: Fact) -> Fact:
    """A result with the curve that it is, and what that gives away.

    Args:
        name: of the primitive.
        facts: of its arguments.
        found: what is proven of the result without curves.
    """
    if name == "square" or (name == "mul" and facts[0] is facts[1]):
        name, facts = "even power", facts[:1]
    known = {*SLOPES, *_ORDERS, *_FOLDS, *BINARY, "select_n"}
    same = name in SAME and facts[0].curve is not None
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
    # One curve of what is given twice, which `f != f` asks for.
    each = {id(f): _curve(f, root) for f in facts}
    curves = [each[id(f)] for f in facts]
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
    return Curve(root, (flat(number),))


def drawn(name: str, curves: Sequence[Curve], root: Fact | None = None) -> Curve | None:
    """The curve that a primitive makes of curves of one array; `None`: none is known.

    Args:
        name: of the primitive, or "even power" or "odd power".
        curves: of its arguments.
        root: the array.
    """
    if name in _FOLDS or name in _ORDERS:
        return _folded(name, curves, root)
    if name not in {*SLOPES, *BINARY, *SAME, "select_n"}:
        return None
    cuts = tuple(sorted({c for curve in curves for c in curve.cuts}))
    pieces = [
        made(name, _narrowed(curves, at, gap))
        for at, gap in zip(_inside(cuts), _gaps(cuts), strict=True)
    ]
    # At a cut itself each has a value, which need be that of neither side.
    points = [made(name, [flat(_value(c, at)) for c in curves]) for at in cuts]
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
        pieces = [flat(float(side * sign > 0)) for side in (-1, 1)]
        point = float(name in ("ge", "le"))
    elif name == "sign":
        pieces, point = [flat(-1.0), flat(1.0)], 0.0
    elif name.endswith("power"):
        # As of a square, with the sign of the line or not: how steep is no matter.
        up = Piece(lambda x: line.at(x) ** 2, (0.0, inf), times((0.0, inf), line.slope))
        sign = -1.0 if name == "odd power" else 1.0
        down = Piece(
            lambda x: sign * line.at(x) ** 2,
            (0.0, inf) if sign > 0 else (-inf, 0.0),
            times((-inf, 0.0) if sign > 0 else (0.0, inf), line.slope),
        )
        pieces, point = [down, up], 0.0
    else:
        turned = Piece(lambda x: -line.at(x), (-inf, inf), (-by, -by))
        kept = {"max": (flat(other), line), "min": (line, flat(other))}
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


def _constant(curve: Curve) -> float | None:
    (low, high) = curve.pieces[0].value
    return low if not curve.cuts and low == high else None


def _inside(cuts: Sequence[float]) -> list[float]:
    """A place inside of each piece."""
    if not cuts:
        return [0.0]
    middles = [(a + b) / 2 for a, b in zip(cuts, cuts[1:], strict=False)]
    return [cuts[0] - 1, *middles, cuts[-1] + 1]


def _narrowed(
    curves: Sequence[Curve], inside: float, gap: tuple[float, float]
) -> list[Piece]:
    """A piece of each curve, in a gap between cuts; of one curve one piece."""
    found = {id(c): narrowed(_piece(c, inside), *gap) for c in curves}
    return [found[id(c)] for c in curves]


def _gaps(cuts: Sequence[float]) -> list[tuple[float, float]]:
    return [*zip([-inf, *cuts], [*cuts, inf], strict=True)]


def _piece(curve: Curve, place: float) -> Piece:
    return curve.pieces[sum(c < place for c in curve.cuts)]


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
