"""Terms that are 0 nowhere, or only where all that they are made of is: what may divide.

A direction times its norm is the vector; where the norm is 0 the vector is 0.
"""

from __future__ import annotations

import numpy as np

from jsplit.jaxprs.proving.terms import Terms

_POSITIVE = {"cosh", "exp", "exp2", "logistic"}
_KEEPS = {"abs", "cbrt", "move", "neg", "rsqrt", "sqrt", "square", "stop_gradient"}
_SCALES = {"div", "mul"}
_SUMS = {"reduce_max", "reduce_sum"}
_DEEPEST = 12  # terms within terms that are looked at


def may_divide(terms: Terms, t: int, deep: int = 0) -> bool:
    """Whether a product with a term can be undone by who knows the term."""
    term = terms.all[t]
    if deep > _DEEPEST:
        return False
    if t in terms.numbers:
        return terms.numbers[t] != 0
    if t in terms.values:
        value = terms.values[t]
        return bool(np.all(value != 0))
    if term.op in _POSITIVE:
        return True
    if term.op in _KEEPS or term.op in ("integer_pow", "convert_element_type"):
        return term.kind == "f" and may_divide(terms, term.args[0], deep + 1)
    if term.op in _SUMS:
        return _vanishes_together(terms, term.args[0])
    if term.op in _SCALES:
        return term.kind == "f" and all(
            may_divide(terms, a, deep + 1) for a in term.args
        )
    least = [terms.numbers[a] for a in term.args if a in terms.numbers]
    if term.op == "max":
        return any(n > 0 for n in least)
    if term.op in ("add", "add_any") and any(n > 0 for n in least):
        rest = [a for a in term.args if a not in terms.numbers]
        return all(is_positive(terms, a) for a in rest)
    return False


def is_positive(terms: Terms, t: int, deep: int = 0) -> bool:
    """Whether a term is nowhere below 0."""
    term = terms.all[t]
    if deep > _DEEPEST:
        return False
    if t in terms.numbers:
        return terms.numbers[t] >= 0
    if term.op in _POSITIVE or term.op in ("abs", "sqrt", "square"):
        return True
    if term.op == "integer_pow":
        return int(str(term.params["y"])) % 2 == 0
    if term.op == "mul" and term.args[0] == term.args[1]:
        return True
    if term.op in (*_SUMS, *_SCALES, "move", "stop_gradient"):
        return all(is_positive(terms, a, deep + 1) for a in term.args)
    return False


def _vanishes_together(terms: Terms, t: int) -> bool:
    """Whether sums of it are 0 only where all of what it is made of is."""
    term = terms.all[t]
    squared = term.op == "mul" and term.args[0] == term.args[1]
    return (
        squared
        or term.op in ("abs", "exp", "square")
        or (term.op == "integer_pow" and int(str(term.params["y"])) % 2 == 0)
    )
