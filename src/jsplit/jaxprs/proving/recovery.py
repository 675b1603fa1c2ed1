"""What follows from known values: all that can be computed of them, and all that can be undone.

A closure of what is known under the rules of a program (as Dolev and Yao, On the security of
public key protocols, 1983, close what an observer of messages knows). So a field is found
that no message has alone: its sign in one and its size in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from jsplit.jaxprs.flat import flatten
from jsplit.jaxprs.macs import carried
from jsplit.jaxprs.proving.drawing import Drawn
from jsplit.jaxprs.proving.jointly import tell
from jsplit.jaxprs.proving.nonzero import may_divide
from jsplit.jaxprs.proving.results import by_results
from jsplit.jaxprs.proving.sums import solved
from jsplit.jaxprs.proving.term_rules import KEEPING, keeps_numbers
from jsplit.jaxprs.proving.terms import Loop, Terms
from jsplit.jaxprs.proving.whole_numbers import root_of, tell_numbers

_UNDONE = {"conj", "cumsum", "neg", "not", "stop_gradient"}
_LARGEST = 2.0**20  # of numbers of the code that sums and products are undone with


class Recovery:
    """What is known, and what follows from it.

    Args:
        terms: of the programs.
        known: terms that are known.
        rounding: whether numbers that were rounded to fewer bits count as known.
    """

    def __init__(self, terms: Terms, known: Iterable[int], rounding: bool = False):
        self.terms = terms
        self.rounding = rounding
        self.drawn = Drawn(terms, rounding)
        self.known: set[int] = set()
        # Of these some entries are, it depends on the records which.
        self.partly: set[int] = set()
        for t in known:
            self.learn(t)
        self._close()

    def has(self, t: int) -> bool:
        """Whether a term is known: to all, as a number is, or by what is known."""
        own = self.terms
        return t in own.values or t in own.numbers or self.bare(t) in self.known

    def learn(self, t: int) -> None:
        """Take a term to be known."""
        self.known.add(self.bare(t))

    def bare(self, t: int) -> int:
        """A term without what only moves it and leaves nothing out."""
        term = self.terms.all[t]
        while term.op == "move" and _first(term.key) in KEEPING:
            (t,) = term.args
            term = self.terms.all[t]
        return t

    def _close(self) -> None:
        while True:
            before = len(self.known)
            for t, term in enumerate(self.terms.all):
                made = term.op not in ("input", "const", "scan")
                if made and all(map(self.has, term.args)):
                    self.learn(t)
            for t in sorted(self.known, reverse=True):
                self._undo(t)
            if len(self.known) == before:
                self._together()
            if len(self.known) == before:
                return

    def _undo(self, t: int) -> None:
        """Learn what a known term was made of, by what else is known."""
        term = self.terms.all[t]
        if term.op == "concatenate" or term.op == "stack":
            for a in term.args:
                self.learn(a)
        elif term.op in _UNDONE:
            self.learn(term.args[0])
        elif term.op == "complex":
            for a in term.args:
                self.learn(a)
        elif term.op in ("convert_element_type", "reduce_precision"):
            before = self.terms.all[term.args[0]].dtype
            keeps = keeps_numbers(before, term.dtype, self.rounding)
            if keeps and (self.rounding or term.op != "reduce_precision"):
                self.learn(term.args[0])
        elif term.op == "pad":
            config = term.params["padding_config"]
            assert isinstance(config, tuple | list)
            if all(low >= 0 and high >= 0 for low, high, _ in config):
                self.learn(term.args[0])
        elif term.op in ("add", "add_any", "sub", "xor", "mul", "div"):
            self._undo_two(term.op, *term.args)

    def _undo_two(self, op: str, a: int, b: int) -> None:
        for x, other, first in ((a, b, True), (b, a, False)):
            if self.has(x) or not self.has(other) or not self._fits(other):
                continue
            if op in ("mul", "div"):
                # 5 // 2 is 2, and a product of whole numbers wraps around.
                if self.terms.all[x].kind in "iub" or (op == "div" and not first):
                    continue
                if not may_divide(self.terms, other):
                    continue
            self.learn(x)

    def _fits(self, t: int) -> bool:
        """Whether floats bear a sum or product with it."""
        value = self.terms.values.get(t)
        if t in self.terms.numbers:
            value = np.asarray(self.terms.numbers[t])
        if value is None or value.dtype.kind not in "iuf":
            return True
        sizes = np.abs(value.astype(float))
        sizes = sizes[sizes > 0]
        return not sizes.size or bool(
            sizes.max() <= _LARGEST and sizes.min() >= 1 / _LARGEST
        )

    def _together(self) -> None:
        """Learn what several known terms tell together."""
        self._by_curves()
        whole, partly = by_results(self.terms, self.has)
        for t in whole:
            self.learn(t)
        self.partly.update(map(self.bare, partly))
        for t in solved(self.terms, self.known, self.has):
            self.learn(t)
        for loop in self.terms.loops:
            _through(self, loop)

    def _by_curves(self) -> None:
        groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
        # In their order, so that none waits for a long chain of others.
        for t in range(len(self.terms.all)):
            self.drawn.of(t)
            self.drawn.is_bare(t)
        for t in self.known:
            around, inner = self.terms.moved(t)
            root = self.drawn.of(inner)[0]
            if root != inner and self.drawn.is_bare(root):
                moves = tuple(hash(self.terms.all[m].key) for m in around)
                groups.setdefault((moves, root), []).append(t)
        for (_, root), found in groups.items():
            around, _ = self.terms.moved(found[0])
            inner = [self.terms.moved(t)[1] for t in found]
            # Whole numbers wrap around, so they are tried out.
            whole = self.terms.all[root].kind in "iu"
            told = tell_numbers(self.terms, inner, root) if whole else None
            if told is None:
                told = tell([self.drawn.of(t)[1] for t in inner])
            if told:
                self.learn(self.terms.again(around, root))
        self._by_numbers()

    def _by_numbers(self) -> None:
        """The same of whole numbers, by trying them out."""
        groups: dict[int, list[int]] = {}
        for t in self.known:
            root = root_of(self.terms, t)
            if root is not None and root != t:
                groups.setdefault(root, []).append(t)
        for root, found in groups.items():
            if not self.has(root) and tell_numbers(self.terms, found, root):
                self.learn(root)


def _first(key: object) -> object:
    return key[0] if isinstance(key, tuple) else None


def _through(outer: Recovery, loop: Loop) -> None:
    """Learn what the results of a loop tell of what goes into it.

    By induction over its turns: from the first on, of what is carried and known in each,
    and from the last back, of what is carried and can be undone in each.
    """
    body = loop.eqn.params["jaxpr"]
    first, last = carried(loop.eqn, body.jaxpr)
    flat = flatten(body, calls=True)
    terms = Terms()
    inputs = [
        terms.start(v) if t is not None else None
        for v, t in zip(flat.invars, loop.args, strict=True)
    ]
    terms.add(flat)
    outs = [terms.term(v) for v in flat.outvars]
    count = last - first
    known = {i for i, t in enumerate(loop.args) if t is not None and outer.has(t)}
    told = {i for i, t in enumerate(loop.outs) if outer.has(t)}

    def closed(carry: set[int], after: set[int]) -> Recovery:
        """What is known in a turn."""
        given = [inputs[i] for i in known if not first <= i < last]
        given += [inputs[first + i] for i in carry]
        given += [outs[i] for i in told if i >= count] + [outs[i] for i in after]
        return Recovery(terms, [t for t in given if t is not None], outer.rounding)

    def kept(carry: set[int], found: Recovery, sides: Mapping[int, int | None]) -> set:
        return {i for i in carry if (t := sides[i]) is not None and found.has(t)}

    # From the first turn on.
    carry = {i for i in range(count) if first + i in known}
    found = closed(carry, set())
    while (fewer := kept(carry, found, dict(enumerate(outs)))) != carry:
        carry, found = fewer, closed(fewer, set())
    for i, t in enumerate(inputs):
        given = loop.args[i]
        if t is not None and given is not None and found.has(t):
            if not first <= i < last:
                outer.learn(given)
    for i, t in enumerate(outs):
        if t is not None and found.has(t) and (i in carry or i >= count):
            outer.learn(loop.outs[i])
    # And from the last back.
    carry = {i for i in told if i < count}
    before = dict(enumerate(inputs[first:last]))
    while carry:
        fewer = kept(carry, closed(set(), carry), before)
        if fewer == carry:
            for i in carry:
                given = loop.args[first + i]
                if given is not None:
                    outer.learn(given)
            return
        carry = fewer


def rounds(terms: Terms) -> bool:
    """Whether some term is another one in fewer bits."""
    for term in terms.all:
        if term.op == "reduce_precision":
            return True
        if term.op == "convert_element_type":
            before = terms.all[term.args[0]].dtype
            fine, rough = (keeps_numbers(before, term.dtype, r) for r in (False, True))
            if rough and not fine:
                return True
    return False
