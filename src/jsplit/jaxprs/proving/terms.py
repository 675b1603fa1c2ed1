"""Programs as terms: each variable as an expression of its inputs, the same one for the same value.

Terms are numbered as they are first seen (hash-consing, Ershov, On programming of arithmetic
operations, 1958), across several programs that hand values on. What only moves entries stands
outermost, and axes of one entry do not count, so `sign(x.T)` and `sign(x).T` are one term.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var

from jsplit.jaxprs.flat import Atom, Flat, shape_of
from jsplit.jaxprs.proving.term_rules import (
    BROADCAST,
    ENTRYWISE,
    UNARY,
    kind_of,
    move_of,
    neutral,
    number_of,
    onto,
)

_LARGEST = 1 << 16  # entries of a constant that is looked at


class Term(NamedTuple):
    """An expression.

    Attributes:
        op: the primitive; "input" of what a program starts from; "const".
        key: what else tells it from others of its primitive.
        args: the numbers of the terms that it is made of.
        shape: of its value, without axes of one entry.
        dtype: of its value.
        params: of the primitive.
    """

    op: str
    key: Hashable
    args: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    params: Mapping[str, object]

    @property
    def kind(self) -> str:
        """Whether its value is of floats "f", whole numbers "i" or "u", ...; "" of keys."""
        return kind_of(self.dtype)


class Loop(NamedTuple):
    """A scan whose inputs and results are terms.

    Attributes:
        eqn: the scan.
        args: its inputs; `None` of what is no term.
        outs: its results.
    """

    eqn: JaxprEqn
    args: tuple[int | None, ...]
    outs: tuple[int, ...]


class Terms:
    """All terms of some programs, by variable.

    A variable that depends on what nobody here knows, as a parameter, has no term.
    """

    def __init__(self) -> None:
        self.all: list[Term] = []
        self.of: dict[Var, int] = {}
        self.loops: list[Loop] = []
        # Of a constant its value, of one number that number.
        self.values: dict[int, np.ndarray] = {}
        self.numbers: dict[int, float] = {}
        self._known: dict[Hashable, int] = {}
        self._fresh = count()

    def start(self, v: Var, key: Hashable = None) -> int:
        """The term of an input; the same one for the same `key`."""
        shape = shape_of(v)
        key = ("fresh", next(self._fresh)) if key is None else ("input", key)
        found = self._term("input", key, (), shape.shape, shape.dtype, {})
        self.of[v] = found
        return found

    def add(self, flat: Flat) -> None:
        """Take the equations of a program in, whose inputs have terms as far as known."""
        for v, value in flat.consts.items():
            self.of[v] = self._constant(value)
        for equation in flat.equations:
            self.take(equation.eqn)

    def take(self, eqn: JaxprEqn) -> None:
        """Take one equation in."""
        args = [self.term(v) for v in eqn.invars]
        if eqn.primitive.name == "optimization_barrier":
            pairs = zip(eqn.outvars, args, strict=True)
            self.of.update((v, t) for v, t in pairs if t is not None)
            return
        known = [t for t in args if t is not None]
        if len(known) < len(args):
            if eqn.primitive.name == "scan" and any(self._open(t) for t in known):
                self._results(eqn, args, known)
            return
        self._results(eqn, args, known)

    def term(self, v: Atom) -> int | None:
        """The number of a variable's term, if it has one."""
        return self._constant(v.val) if isinstance(v, Literal) else self.of.get(v)

    def moved(self, t: int) -> tuple[tuple[int, ...], int]:
        """The terms that only move what is within, from the outermost on; what is."""
        around: list[int] = []
        while self.all[t].op == "move":
            around.append(t)
            (t,) = self.all[t].args
        return tuple(around), t

    def again(self, around: Sequence[int], t: int) -> int:
        """A term moved as others are."""
        for outer in reversed(around):
            own = self.all[outer]
            dtype = self.all[t].dtype
            t = self._term("move", own.key, (t,), own.shape, dtype, own.params)
        return t

    def broadcast(self, t: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
        """A term repeated along new axes of a shape."""
        if self.all[t].shape == shape:
            return t
        key = (BROADCAST, shape, axes)
        return self._term("move", key, (t,), shape, self.all[t].dtype, {})

    def _open(self, t: int) -> bool:
        return t not in self.values and t not in self.numbers

    def _results(
        self, eqn: JaxprEqn, args: Sequence[int | None], known: list[int]
    ) -> None:
        name = eqn.primitive.name
        if len(eqn.outvars) == 1 and len(known) == len(args) and name != "scan":
            self.of[eqn.outvars[0]] = self._result(eqn, known)
            return
        shapes = tuple(shape_of(v).shape for v in eqn.invars)
        parts = sorted(eqn.params.items(), key=lambda p: p[0])
        key = _hashed((tuple(args), shapes, *parts))
        key = key or ("fresh", next(self._fresh))
        outs: list[int] = []
        for i, v in enumerate(eqn.outvars):
            shape = shape_of(v)
            at = (key, i)
            outs.append(
                self._term(name, at, tuple(known), shape.shape, shape.dtype, eqn.params)
            )
            self.of[v] = outs[-1]
        if name == "scan":
            self.loops.append(Loop(eqn, tuple(args), tuple(outs)))

    def _result(self, eqn: JaxprEqn, args: list[int]) -> int:
        name, out = eqn.primitive.name, shape_of(eqn.outvars[0])
        shape = _squeezed(out.shape)
        same = self._passed(name, args)
        if same is not None:
            return same
        move = move_of(eqn)
        if move is not None:
            if args[0] in self.numbers or self.all[args[0]].shape == shape:
                kept = move[0] in ("reshape", BROADCAST)
                if kept or args[0] in self.numbers:
                    return args[0]
            dtype, params = self.all[args[0]].dtype, eqn.params
            return self._term("move", move, args[:1], shape, dtype, params)
        if name in UNARY and len(args) == 1:
            around, inner = self.moved(args[0])
            made = self._plain(eqn, (inner,), self.all[inner].shape, out.dtype, ())
            return self.again(around, made)
        if name in ENTRYWISE:
            args = [
                t
                if t in self.numbers
                else self.broadcast(t, shape, onto(shape_of(v).shape, out.shape))
                for t, v in zip(args, eqn.invars, strict=True)
            ]
            return self._entrywise(eqn, args, shape, out.dtype)
        shapes = tuple(shape_of(v).shape for v in eqn.invars)
        return self._plain(eqn, tuple(args), shape, out.dtype, shapes)

    def _passed(self, name: str, args: list[int]) -> int | None:
        """The argument whose value an equation leaves as it is."""
        if name in ("copy", "stop_gradient") and len(args) == 1:
            return args[0]
        at = neutral(name, [self.numbers.get(t) for t in args])
        if at is not None:
            # A number that is repeated has no other value.
            return args[at] if self.all[args[at]].shape else None
        if name == "select_n" and args[0] in self.numbers:
            case = args[1 + int(self.numbers[args[0]])]
            return case if self.all[case].shape else None
        if name == "select_n" and len(args) == 3 and args[1] in self.numbers:
            which = self.all[self.moved(args[0])[1]]
            case = self.moved(args[2])[1]
            if which.op == "is_finite" and which.args == (case,):
                return args[2]
        if name == "abs" and self.all[args[0]].op == "reduce_sum":
            of = self.all[self.all[args[0]].args[0]].op
            return args[0] if of in ("exp", "abs", "square") else None
        return None

    def _entrywise(
        self, eqn: JaxprEqn, args: list[int], shape: tuple[int, ...], dtype: np.dtype
    ) -> int:
        """With what moves all arguments alike taken out of it."""
        around: list[int] = []
        while True:
            inner = [t for t in args if t not in self.numbers]
            moved = [self.all[t] for t in inner]
            if not inner or any(m.op != "move" for m in moved):
                break
            if len({m.key for m in moved}) > 1:
                break
            within = {self.all[m.args[0]].shape for m in moved}
            if len(within) > 1:
                break
            around.append(inner[0])
            args = [t if t in self.numbers else self.all[t].args[0] for t in args]
            (shape,) = within
        return self.again(around, self._plain(eqn, tuple(args), shape, dtype, ()))

    def _plain(
        self,
        eqn: JaxprEqn,
        args: tuple[int, ...],
        shape: tuple[int, ...],
        dtype: np.dtype,
        more: Hashable,
    ) -> int:
        name, params = eqn.primitive.name, eqn.params
        key = _hashed((more, *sorted(params.items(), key=lambda p: p[0])))
        # What has no hash, as a parameter that is an array, is like no other.
        key = ("fresh", next(self._fresh)) if key is None else key
        same = number_of(name, [self.numbers.get(t) for t in args], dtype)
        found = self._term(name, key, args, shape, dtype, params)
        if same is not None:
            self.numbers[found] = same
        return found

    def _constant(self, value: object) -> int:
        try:
            array = np.asarray(value)
            small = array.size <= _LARGEST and array.dtype.kind in "iufb"
            key = (array.shape, array.dtype.str, array.tobytes()) if small else None
        except TypeError:  # a PRNG key is no array of NumPy
            array, key, small = np.zeros(0), None, False
        key = ("fresh", next(self._fresh)) if key is None else ("const", key)
        dtype = getattr(value, "dtype", array.dtype)
        found = self._term("const", key, (), np.shape(array), dtype, {})
        if small and found not in self.values:
            self.values[found] = array
            if array.size and (array == array.flat[0]).all():
                self.numbers[found] = float(array.flat[0])
        return found

    def _term(
        self,
        op: str,
        key: Hashable,
        args: Sequence[int],
        shape: Sequence[int],
        dtype: np.dtype,
        params: Mapping[str, object],
    ) -> int:
        at = (op, key, tuple(args), _squeezed(shape), str(dtype))
        if at not in self._known:
            self._known[at] = len(self.all)
            self.all.append(Term(op, key, at[2], at[3], dtype, params))
        return self._known[at]


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _hashed(key: Hashable) -> Hashable | None:
    try:
        hash(key)
    except TypeError:
        return None
    return key
