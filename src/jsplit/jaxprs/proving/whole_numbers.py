"""Functions of whole numbers, tried out: whether several together tell each class number.

A quotient and a remainder do, and neither alone. They wrap around as arithmetic of their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

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
    tried = numbers_tried(terms.all[root].dtype)
    values: dict[int, np.ndarray] = {root: tried}
    with np.errstate(all="ignore"):
        rows = [_value(terms, t, values) for t in known]
    found = [
        np.broadcast_to(r, tried.shape).astype(float) for r in rows if r is not None
    ]
    if not found:
        return None
    return len(np.unique(np.stack(found, 1), axis=0)) == len(tried)


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


def root_of(terms: Terms, t: int) -> int | None:
    """The array of whole numbers that a term is a function of, entry by entry."""
    roots: set[int] = set()
    seen: set[int] = set()
    left = [t]
    while left:
        at = left.pop()
        term = terms.all[at]
        if at in seen or at in terms.numbers:
            continue
        seen.add(at)
        if term.op in _LEAVES or not term.args:
            roots.add(at)
        left += term.args if at not in roots else ()
        if len(seen) > _MOST or len(roots) > 1:
            return None
    root = roots.pop() if roots else None
    return root if root is not None and terms.all[root].kind in "iu" else None
