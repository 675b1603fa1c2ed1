"""Known sums of terms, solved for the terms: `log_softmax` and `logsumexp` give the logits.

Terms of one shape are symbols; each known one is a row of their factors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from jsplit.jaxprs.proving.spanning import told
from jsplit.jaxprs.proving.term_rules import BROADCAST
from jsplit.jaxprs.proving.terms import Terms

_MOST = 200  # symbols of one shape
_DEEPEST = 32  # sums within sums
_LARGEST = 2.0**10  # of factors, and least 2**-10
_Sum = dict[int, float]


def solved(
    terms: Terms, known: Collection[int], has: Callable[[int], bool]
) -> set[int]:
    """The terms that known sums can be solved for.

    Args:
        terms: all terms.
        known: numbers of the known ones.
        has: whether a term is known.
    """
    summed = _Summed(terms, has)
    # What is no sum tells nothing of others.
    sums = [s for t in known if (s := summed.of(t)) != {t: 1.0}]
    sums = [s for s in sums if s and terms.all[next(iter(s))].kind == "f"]
    wide = {_broadcast(terms, a) for s in sums for a in s}
    for s in [*sums]:
        shapes = {terms.all[a].shape for a in s}
        for key in wide:
            # A number for each record, as it is taken off each of its entries.
            if key is not None and shapes == {key[0]}:
                sums.append(
                    {terms.broadcast(a, key[1], key[2]): c for a, c in s.items()}
                )
    by_shape: dict[tuple[int, ...], list[_Sum]] = {}
    for s in sums:
        by_shape.setdefault(terms.all[next(iter(s))].shape, []).append(s)
    found: set[int] = set()
    for own in by_shape.values():
        found |= _told(own)
    return {t for t in found if not has(t)}


def _told(sums: list[_Sum]) -> set[int]:
    symbols = sorted({a for s in sums for a in s})
    if len(sums) < 2 or len(symbols) > _MOST:
        return set()
    rows = np.array([[s.get(a, 0.0) for a in symbols] for s in sums])
    return {a for a, yes in zip(symbols, told(rows), strict=True) if yes}


def _broadcast(
    terms: Terms, t: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """The shape of what is repeated, that of the result, and the axes it goes along."""
    term = terms.all[t]
    if term.op != "move" or not isinstance(term.key, tuple):
        return None
    if term.key[0] != BROADCAST:
        return None
    return terms.all[term.args[0]].shape, term.key[1], term.key[2]


class _Summed:
    """Terms as sums of others, less what is known beside them."""

    def __init__(self, terms: Terms, has: Callable[[int], bool]):
        self.terms = terms
        self.has = has
        self.inner: dict[int, _Sum] = {}

    def of(self, t: int, deep: int = 0) -> _Sum:
        """A term as a sum, empty if it is known beside others."""
        if deep and self.has(t):
            return {}
        if not deep:
            return self._of(t, 0)
        # A term that several sums have is looked at once.
        if t not in self.inner:
            self.inner[t] = self._of(t, deep)
        return self.inner[t]

    def _of(self, t: int, deep: int) -> _Sum:
        terms = self.terms
        term = terms.all[t]
        if t in terms.numbers or t in terms.values:
            return {}
        at = _broadcast(terms, t)
        if at is not None:
            inner = self.of(term.args[0], deep + 1)
            return {terms.broadcast(a, at[1], at[2]): c for a, c in inner.items()}
        if deep > _DEEPEST or term.kind != "f":
            return {t: 1.0}
        if term.op in ("add", "add_any", "sub"):
            return self._added(t, deep)
        by = -1.0 if term.op == "neg" else _factor(terms, t)
        if by is None:
            return {t: 1.0}
        of = next(a for a in term.args if a not in terms.numbers)
        return {s: c * by for s, c in self.of(of, deep + 1).items()}

    def _added(self, t: int, deep: int) -> _Sum:
        term = self.terms.all[t]
        second = -1.0 if term.op == "sub" else 1.0
        found: _Sum = {}
        for a, sign in zip(term.args, (1.0, second), strict=True):
            if abs(self.terms.numbers.get(a, 0.0)) > _LARGEST:
                return {t: 1.0}
            for s, c in self.of(a, deep + 1).items():
                found[s] = found.get(s, 0.0) + sign * c
        return {s: c for s, c in found.items() if c}


def _factor(terms: Terms, t: int) -> float | None:
    """The number that a term multiplies another one with."""
    term = terms.all[t]
    numbers = [terms.numbers[a] for a in term.args if a in terms.numbers]
    if term.op not in ("mul", "div") or len(numbers) != 1:
        return None
    (by,) = numbers
    if not 1 / _LARGEST <= abs(by) <= _LARGEST:
        return None
    if term.op == "mul":
        return by
    return 1 / by if term.args[1] in terms.numbers else None
