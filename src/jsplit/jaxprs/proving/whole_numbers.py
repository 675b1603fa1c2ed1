"""Functions of whole numbers, tried out: whether several together tell each class number.

A quotient and a remainder do, and neither alone. They wrap around as arithmetic of their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jsplit.jaxprs.proving.term_rules import BROADCAST
from jsplit.jaxprs.proving.terms import Terms

_BINARY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "rem": np.fmod,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shift_left": lambda x, by: np.left_shift(x, np.clip(by, 0, 31)),
    "shift_right_arithmetic": lambda x, by: np.right_shift(x, np.clip(by, 0, 31)),
    "shift_right_logical": lambda x, by: _bits(x) >> np.clip(by, 0, 31).astype("uint8"),
}
_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "not": np.invert,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
}


def _bits(x: np.ndarray) -> np.ndarray:
    """Whole numbers as those without a sign of the same bits."""
    return x.view(f"uint{8 * x.dtype.itemsize}") if x.dtype.kind == "i" else x


def numbers_tried(dtype: np.dtype) -> np.ndarray:
    """Class numbers and tokens of all sizes, as far as a dtype has them."""
    powers = 2 ** np.arange(24)
    found = [np.arange(300), powers, powers + 1, powers[2:] - 1]
    info = np.iinfo(dtype)
    numbers = np.unique(np.concatenate(found))
    if info.min < 0:
        numbers = np.concatenate([-numbers[::-1], numbers])
    numbers = numbers[(numbers >= info.min) & (numbers <= info.max)]
    return np.unique(numbers).astype(dtype)


def tell_numbers(terms: Terms, known: Sequence[int], root: int) -> bool | None:
    """Whether terms that are functions of one number, entry by entry, give it away.

    Args:
        terms: all terms.
        known: those that are known.
        root: the array of whole numbers that they are functions of.

    Returns:
        Whether they do; `None` where none of them can be tried out.
    """
    tried = numbers_tried(_bare_dtype(terms, root)).astype(terms.all[root].dtype)
    rows: list[np.ndarray | None] = []
    values: dict[int, np.ndarray] = {root: tried}
    with np.errstate(all="ignore"):
        for t in known:
            beside = {a: n for a in _within(terms, t) if (n := along(terms, a))}
            size = max((len(numbers) for numbers, _ in beside.values()), default=0)
            if not size:
                rows.append(_value(terms, t, values))
            # Each number meets all those of the code that stand along another axis.
            for i in range(size):
                own = {a: numbers[i] for a, (numbers, _) in beside.items()}
                rows.append(_value(terms, t, {root: tried, **own}))
    found = [
        np.broadcast_to(r, tried.shape).astype(float) for r in rows if r is not None
    ]
    if not found:
        return None
    return len(np.unique(np.stack(found, 1), axis=0)) == len(tried)


def _bare_dtype(terms: Terms, root: int) -> np.dtype:
    """The dtype of numbers before they were converted to one that has more."""
    term = terms.all[root]
    while term.op == "move" or term.op == "convert_element_type":
        before = terms.all[term.args[0]]
        if before.kind not in "iu" or before.dtype.itemsize > term.dtype.itemsize:
            break
        term = before
    return term.dtype


def _value(terms: Terms, t: int, values: dict[int, np.ndarray]) -> np.ndarray | None:
    if t in values:
        return values[t]
    term = terms.all[t]
    if t in terms.numbers:
        return np.asarray(terms.numbers[t]).astype(term.dtype)
    given = [_value(terms, a, values) for a in term.args]
    args = [x for x in given if x is not None]
    if not args or len(args) < len(given):
        return None
    found = _made(term.op, args, term.dtype)
    if found is not None:
        values[t] = found.astype(term.dtype)
        return values[t]
    return None


def _made(op: str, args: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray | None:
    """What a primitive makes of numbers; `None` of one that is not tried out."""
    if op in _BINARY and len(args) == 2:
        return _BINARY[op](*args)
    if op in _UNARY and len(args) == 1:
        return _UNARY[op](args[0])
    if op == "convert_element_type":
        return args[0]
    if op == "select_n" and len(args) == 3:
        return np.where(args[0].astype(bool), args[2], args[1])
    if op == "div" and not (args[1] == 0).any():
        exact = args[0] / args[1]
        return exact if dtype.kind == "f" else np.trunc(exact)
    return None


# What is no function of one entry.
_LEAVES = {"input", "const", "move", "reduce_sum", "dot_general", "gather", "scan"}
_MOST = 64  # terms that are looked at
_DEEPEST = 8  # primitives by which numbers of the code are made of others
_MOST_BESIDE = 512  # numbers of the code along an axis


def root_of(terms: Terms, t: int) -> int | None:
    """The array of whole numbers that a term is a function of, entry by entry.

    It may be repeated along one axis, along which numbers of the code stand.
    """
    roots = [a for a in _within(terms, t) if _is_leaf(terms, a)]
    beside = [found for a in roots if (found := along(terms, a)) is not None]
    roots = [a for a in roots if along(terms, a) is None]
    if len(roots) != 1 or terms.all[roots[0]].kind not in "iu":
        return None
    (root,) = roots
    if beside:
        axes = {axis for _, axis in beside}
        sizes = {len(numbers) for numbers, _ in beside}
        repeated = axes_of(terms, root)
        if len(axes) > 1 or len(sizes) > 1 or repeated is None or axes & {*repeated}:
            return None
        if max(sizes) > _MOST_BESIDE:
            return None
    return root


def _within(terms: Terms, t: int) -> list[int]:
    """All terms that a term is made of, entry by entry; none where they are many."""
    seen: dict[int, None] = {}
    left = [t]
    while left:
        at = left.pop()
        if at in seen or at in terms.numbers:
            continue
        seen[at] = None
        left += () if _is_leaf(terms, at) else terms.all[at].args
        if len(seen) > _MOST:
            return []
    return [*seen]


def _is_leaf(terms: Terms, t: int) -> bool:
    return terms.all[t].op in _LEAVES or not terms.all[t].args


def along(terms: Terms, t: int) -> tuple[np.ndarray, int] | None:
    """Numbers of the code along one axis, if a term is these, repeated; and the axis."""
    axes, term = axes_of(terms, t), terms.all[t]
    if axes is None or len(axes) != 1:
        return None
    value = _line(terms, term.args[0])
    return None if value is None else (value, axes[0])


def _line(terms: Terms, t: int, deep: int = 0) -> np.ndarray | None:
    """Numbers that the code says or counts, along one axis; `None` of anything else."""
    term = terms.all[t]
    if t in terms.values:
        return terms.values[t].ravel()
    if t in terms.numbers:
        return np.asarray(terms.numbers[t]).astype(term.dtype)
    if len(term.shape) != 1 or deep > _DEEPEST:
        return None
    if term.op == "iota":
        return np.arange(term.shape[0]).astype(term.dtype)
    args = [x for a in term.args if (x := _line(terms, a, deep + 1)) is not None]
    if len(args) < len(term.args):
        return None
    if term.op == "move":
        key = term.key[0] if isinstance(term.key, tuple) else None
        return args[0][::-1] if key == "rev" else None
    found = _made(term.op, args, term.dtype)
    return None if found is None else found.astype(term.dtype)


def axes_of(terms: Terms, t: int) -> tuple[int, ...] | None:
    """The axes that a term has of what it repeats; `None`: it repeats nothing."""
    term = terms.all[t]
    if term.op != "move" or not isinstance(term.key, tuple):
        return None
    return term.key[2] if term.key[0] == BROADCAST else None
