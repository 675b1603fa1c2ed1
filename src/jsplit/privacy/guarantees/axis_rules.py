"""Where the records' axis of a value goes in one primitive, or that it is not known.

Every rule is of an operation that computes the entries of a record from that record's
entries alone. What no rule is for counts as mixing records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]


class Rows(NamedTuple):
    """Which entries are a record's: those at (index along `axis` // inner) % records.

    `inner` is above 1 where the records' axis was merged with others behind it.
    """

    axis: int
    inner: int = 1


class Call(NamedTuple):
    """One equation: which arguments are of records, and all shapes.

    Attributes:
        rows: of each argument, `None` if it is the same whatever the records are.
        shapes: of the arguments.
        out: shape of the first result.
        params: of the equation.
        records: how many there are.
    """

    rows: Sequence[Rows | None]
    shapes: Sequence[Shape]
    out: Shape
    params: dict
    records: int


Rule = Callable[[Call], Rows | None]
"""Where the records' axis of the results is, or `None`: not known."""


def _one(rows: Sequence[Rows | None]) -> Rows | None:
    """Where all arguments that are of records have them, if that is one place."""
    places = {r for r in rows if r is not None}
    return places.pop() if len(places) == 1 else None


def _whole(call: Call) -> Rows | None:
    """Entry by entry; axes of one entry may be repeated, but not that of the records."""
    place = _one(call.rows)
    if place is None:
        return None
    for r, shape in zip(call.rows, call.shapes, strict=True):
        fits = len(shape) == len(call.out) and shape[place.axis] == call.out[place.axis]
        if r is not None and not fits:
            return None
    return place


def _without(axis: int, gone: Sequence[int]) -> int | None:
    """The axis, where others are taken out."""
    return None if axis in gone else axis - sum(a < axis for a in gone)


def _to(rows: Rows | None, axis: int | None) -> Rows | None:
    return None if rows is None or axis is None else rows._replace(axis=axis)


def _reduced(call: Call) -> Rows | None:
    place = _one(call.rows)
    return place and _to(place, _without(place.axis, call.params["axes"]))


def _squeezed(call: Call) -> Rows | None:
    place = _one(call.rows)
    return place and _to(place, _without(place.axis, call.params["dimensions"]))


def _along(name: str) -> Rule:
    """Of what works along one axis and keeps the others."""

    def rule(call: Call) -> Rows | None:
        place = _one(call.rows)
        along = call.params[name]
        rank = max(map(len, call.shapes))
        along = {a % rank for a in (along if isinstance(along, tuple) else (along,))}
        return None if place is None or place.axis in along else place

    return rule


def _last(call: Call) -> Rows | None:
    place = _one(call.rows)
    axis = call.params.get("axis", -1) % len(call.shapes[0])
    return None if place is None or place.axis == axis else place


def _fft(call: Call) -> Rows | None:
    place = _one(call.rows)
    kept = len(call.shapes[0]) - len(call.params["fft_lengths"])
    return place if place is not None and place.axis < kept else None


def _broadcast(call: Call) -> Rows | None:
    place = call.rows[0]
    return place and _to(place, call.params["broadcast_dimensions"][place.axis])


def _transposed(call: Call) -> Rows | None:
    place = call.rows[0]
    return place and _to(place, tuple(call.params["permutation"]).index(place.axis))


def _product(shape: Sequence[int]) -> int:
    found = 1
    for n in shape:
        found *= n
    return found


def _reshaped(call: Call) -> Rows | None:
    """By the stride of the records among all entries, which a reshape does not change."""
    place = call.rows[0]
    if place is None or call.params.get("dimensions") is not None:
        return None
    if 0 in call.out:
        return None
    stride = place.inner * _product(call.shapes[0][place.axis + 1 :])
    for axis in range(len(call.out)):
        behind = _product(call.out[axis + 1 :])
        whole = behind * call.out[axis]
        if stride % behind == 0 and whole % (stride * call.records) == 0:
            return Rows(axis, stride // behind)
    return None


def _concatenated(call: Call) -> Rows | None:
    place = _one(call.rows)
    return None if place and place.axis == call.params["dimension"] else place


def _padded(call: Call) -> Rows | None:
    place = call.rows[0]
    if place is None or call.rows[1] is not None:
        return None
    return (
        place if tuple(call.params["padding_config"][place.axis]) == (0,) * 3 else None
    )


def _sliced(call: Call) -> Rows | None:
    place = call.rows[0]
    if place is None:
        return None
    strides = call.params["strides"]
    size = call.shapes[0][place.axis]
    full = call.out[place.axis] == size and (
        strides is None or strides[place.axis] == 1
    )
    return place if full else None


def _dynamic(call: Call) -> Rows | None:
    """A slice that is the whole axis starts at 0, whatever its start says."""
    place = call.rows[0]
    if place is None or any(r is not None for r in call.rows[1:]):
        return None
    return place if call.out[place.axis] == call.shapes[0][place.axis] else None


def _updated(call: Call) -> Rows | None:
    place = _one(call.rows[:2])
    if place is None or any(r is not None for r in call.rows[2:]):
        return None
    same = call.shapes[1][place.axis] == call.shapes[0][place.axis]
    # A part of the records' axis is overwritten by the same for all records.
    return place if same or call.rows[1] is None else None


def _dot(call: Call) -> Rows | None:
    (contracted, batched) = call.params["dimension_numbers"]
    found: set[Rows | None] = set()
    ahead = len(batched[0])
    for side in (0, 1):
        place, shape = call.rows[side], call.shapes[side]
        own = [*contracted[side], *batched[side]]
        free = [a for a in range(len(shape)) if a not in own]
        if place is not None and place.axis in batched[side]:
            found.add(_to(place, tuple(batched[side]).index(place.axis)))
        elif place is not None and place.axis in free:
            found.add(_to(place, ahead + free.index(place.axis)))
        elif place is not None:
            return None
        ahead += len(free)
    # Free in both they would come to lie in two places.
    return found.pop() if len(found) == 1 else None


def _conv(call: Call) -> Rows | None:
    place, numbers = call.rows[0], call.params["dimension_numbers"]
    if place is None or call.rows[1] is not None:
        return None
    if place.axis != numbers.lhs_spec[0] or call.params["batch_group_count"] != 1:
        return None
    return _to(place, numbers.out_spec[0])


def _window(call: Call) -> Rows | None:
    place, params = _one(call.rows), call.params
    if place is None:
        return None
    at = place.axis
    dilation = params.get("base_dilation")
    alone = (
        params["window_dimensions"][at] == 1
        and params["window_strides"][at] == 1
        and tuple(params["padding"][at]) == (0, 0)
        and (dilation is None or dilation[at] == 1)
    )
    return place if alone else None


_ENTRIES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp clz complex conj
convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1
floor ge gt igamma igammac imag integer_pow is_finite le lgamma log log1p logistic lt max
min mul name ne neg nextafter not or polygamma population_count pow real reduce_precision
regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sharding_constraint sign sin sinh sqrt square stop_gradient sub tan tanh xor
""".split()
_REDUCES = "sum max min prod and or xor".split()
_WINDOWS = (
    "reduce_window_sum reduce_window_max reduce_window_min "
    "select_and_scatter_add select_and_gather_add"
).split()
_CUMULATIVE = "cumsum cumprod cummax cummin cumlogsumexp split".split()
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ENTRIES, _whole),
    **{f"reduce_{r}": _reduced for r in _REDUCES},
    **dict.fromkeys(("argmax", "argmin"), _reduced),
    **dict.fromkeys(_CUMULATIVE, _along("axis")),
    **dict.fromkeys(_WINDOWS, _window),
    "sort": _along("dimension"),
    "rev": _along("dimensions"),
    "top_k": _last,
    "fft": _fft,
    "squeeze": _squeezed,
    "broadcast_in_dim": _broadcast,
    "transpose": _transposed,
    "reshape": _reshaped,
    "concatenate": _concatenated,
    "pad": _padded,
    "slice": _sliced,
    "dynamic_slice": _dynamic,
    "dynamic_update_slice": _updated,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
}
