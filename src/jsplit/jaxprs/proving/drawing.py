"""Terms as curves of the terms that they are made of, entry by entry.

What works entry by entry on one array and on numbers of the code is a curve of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from jsplit.jaxprs.proving.curves import drawn, level, straight
from jsplit.jaxprs.proving.facts import Curve
from jsplit.jaxprs.proving.term_rules import ENTRYWISE, UNARY, keeps_numbers
from jsplit.jaxprs.proving.terms import Terms

_LARGEST = 2.0**20  # of numbers that curves are drawn with, and least 2**-20
_DEEPEST = 64  # primitives one after the other
_TOKENS = 2.0**8  # of whole factors: class numbers are below 2**24


class Drawn:
    """The curves of terms, drawn when they are asked for.

    Args:
        terms: all terms.
        rounding: whether numbers in fewer bits count as the same ones.
    """

    def __init__(self, terms: Terms, rounding: bool):
        self.terms = terms
        self.rounding = rounding
        self._found: dict[int, tuple[int, Curve]] = {}
        self._bare: dict[int, bool] = {}
        self._deep: dict[int, int] = {}

    def of(self, t: int) -> tuple[int, Curve]:
        """What a term is a curve of, perhaps of itself, and the curve."""
        if t not in self._found:
            self._found[t] = self._drawn(t) or (t, straight())
        return self._found[t]

    def is_bare(self, t: int) -> bool:
        """Whether no number so large or small stands before it that floats lose bits."""
        if t not in self._bare:
            term = self.terms.all[t]
            within = term.op in UNARY or term.op in ENTRYWISE or term.op == "move"
            self._bare[t] = not within or not any(
                self._too_large(a) or not self.is_bare(a) for a in term.args
            )
        return self._bare[t]

    def _drawn(self, t: int) -> tuple[int, Curve] | None:
        term = self.terms.all[t]
        if term.op not in UNARY and term.op not in ENTRYWISE:
            return None
        parts = [
            (None, level(self.terms.numbers[a])) if self._fits(a) else self.of(a)
            for a in term.args
        ]
        roots = {root for root, _ in parts if root is not None}
        if len(roots) != 1 or any(self._too_large(a) for a in term.args):
            return None
        if term.op == "convert_element_type":
            before = self.terms.all[term.args[0]].dtype
            if not keeps_numbers(before, term.dtype, self.rounding):
                return None
        name = _named(term.op, term.args, term.params)
        if name is None or not self._is_real(t):
            return None
        curves = [curve for _, curve in parts]
        if name.endswith("power"):
            curves = curves[:1]
        deep = 1 + max(self._deep.get(a, 0) for a in term.args)
        if deep > _DEEPEST:
            return None
        self._deep[t] = deep
        curve = drawn(name, curves)
        return None if curve is None else (roots.pop(), curve)

    def _fits(self, t: int) -> bool:
        return t in self.terms.numbers

    def _too_large(self, t: int) -> bool:
        size = abs(self.terms.numbers.get(t, 1.0))
        return size != 0 and not 1 / _LARGEST <= size <= _LARGEST

    def _is_real(self, t: int) -> bool:
        """Whether its primitive does what it does to real numbers."""
        term = self.terms.all[t]
        if term.kind in "iu" and term.op not in ("select_n", "sign", "max", "min"):
            factors = [abs(self.terms.numbers.get(a, 1.0)) for a in term.args]
            whole = all(self.terms.all[a].kind in "iub" for a in term.args)
            small = term.op in ("add", "sub", "neg", "abs") or (
                term.op == "mul" and max(factors) <= _TOKENS
            )
            converted = term.op == "convert_element_type" and whole
            return (whole and small and term.dtype.itemsize >= 4) or converted
        return term.kind not in "c"


def _named(op: str, args: tuple[int, ...], params: Mapping[str, object]) -> str | None:
    """The primitive as `curves` calls it."""
    if op == "mul" and args[0] == args[1]:
        return "even power"
    if op == "square":
        return "even power"
    if op == "integer_pow":
        power = int(str(params["y"]))
        return None if power <= 0 else ("odd power" if power % 2 else "even power")
    return op
