"""Several curves of one array: whether all together tell its entries, as `abs(x)` and `sign(x)` do.

On each piece one of them must rise or fall, and no two pieces may look alike in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from jsplit.jaxprs.proving.curves import direction
from jsplit.jaxprs.proving.facts import Curve, Piece
from jsplit.jaxprs.proving.pieces import narrowed, rises

_MOST = 16  # places that are cut
_PLACES = np.linspace(-0.9375, 0.9375, 31)  # where floats must tell entries apart


def tell(curves: Sequence[Curve]) -> bool:
    """Whether curves of one array give it away, all together.

    Args:
        curves: what is known, each as a function of an entry.

    Returns:
        Whether no two entries give the same in all of them, also in 32 bits.
    """
    if any(direction(c) for c in curves):
        return _borne(curves)
    cuts = sorted({at for c in curves for at in c.cuts})
    if len(cuts) > _MOST:
        return False
    # Along the line: a piece, a cut, a piece, ...
    parts = [[_between(c, low, high) for c in curves] for low, high in _gaps(cuts)]
    told = all(any(rises(p) for p in part) for part in parts)
    if not told:
        return False
    for i, at in enumerate(cuts):
        parts.insert(2 * i + 1, [_at(c, at) for c in curves])
    pairs = ((a, b) for i, a in enumerate(parts) for b in parts[:i])
    apart = all(any(map(_differ, a, b)) for a, b in pairs)
    return apart and _borne(curves)


def _gaps(cuts: Sequence[float]) -> list[tuple[float, float]]:
    return [*zip([-inf, *cuts], [*cuts, inf], strict=True)]


def _between(curve: Curve, low: float, high: float) -> Piece:
    """A curve between two of all cuts, with the range of its values there."""
    inside = sum(at <= low for at in curve.cuts)
    return narrowed(curve.pieces[inside], low, high)


def _at(curve: Curve, at: float) -> Piece:
    """A curve at one place."""
    if at in curve.cuts:
        value = curve.points[curve.cuts.index(at)]
    else:
        value = curve.pieces[sum(c < at for c in curve.cuts)].at(at)
    return Piece(lambda x: value, (value, value), (0.0, 0.0))


def _differ(a: Piece, b: Piece) -> bool:
    """Whether two ranges have no value in common; they are without their ends."""
    (low, high), (least, most) = a.value, b.value
    if low == high and least == most:
        return low != least
    return high <= least or most <= low


def _borne(curves: Sequence[Curve]) -> bool:
    """Whether floats of 32 bits tell entries between -1 and 1 apart, as real numbers do."""
    with np.errstate(all="ignore"):
        rows = np.array([[_value(c, x) for c in curves] for x in _PLACES], "float32")
    if not np.isfinite(rows).all():
        return False
    return len(np.unique(rows, axis=0)) == len(rows)


def _value(curve: Curve, x: float) -> float:
    return _at(curve, float(x)).at(0.0)
