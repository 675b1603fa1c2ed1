"""Rows of the values of a program: computed from the rows of what they are made of.

To have layers 0 to 9 of a stack that was cast or transposed, it is enough to have these
layers. What is made elsewise is computed whole, and sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import jax
from jax.extend.core import DropVar, JaxprEqn, Var

from jsplit.jaxprs.flat import Atom, Equation, Flat, Remat, flatten, shape_of
from jsplit.jaxprs.macs import carried
from jsplit.jaxprs.some_turns import of_single_turns, some_turns

# Each entry of the result is made of the entries at its own place.
_ENTRYWISE = frozenset(
    """
    abs add add_any and bitcast_convert_type ceil clamp convert_element_type copy
    copy_p cos div eq erf erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le log
    log1p logistic lt max min mul name ne neg not optimization_barrier or pow
    reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sqrt square stop_gradient sub tanh xor
    """.split()
)
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}
_Regions = tuple[Remat, ...]


class Rows(NamedTuple):
    """Rows from `start` to before `stop` along an axis."""

    axis: int
    start: int
    stop: int

    def along(self, axis: int) -> Rows:
        """The same rows along another axis."""
        return self._replace(axis=axis)


@dataclass
class Writer:
    """A program that is written anew, equation by equation.

    Attributes:
        bottom: is told each variable of which rows are sliced, and along which axis.
        equations: written so far.
        consts: captured arrays of what was written in between, by variable.
        called: of a variable of the old program, what it is called in the new one.
        same: of a variable that has the value of another, that one.
    """

    bottom: Callable[[Var, int], object] | None = None
    equations: list[Equation] = field(default_factory=list)
    consts: dict[Var, jax.Array] = field(default_factory=dict)
    called: dict[Var, Atom] = field(default_factory=dict)
    same: dict[Var, Atom] = field(default_factory=dict)
    _made_by: dict[Var, Equation] = field(default_factory=dict)
    _known: dict[tuple[Var, Rows], Atom] = field(default_factory=dict)

    def finished(self, flat: Flat) -> Flat:
        """The old program with the equations of the new one."""
        outvars = [self.now(v) for v in flat.outvars]
        consts = {**flat.consts, **self.consts}
        return flat._replace(outvars=outvars, consts=consts, equations=self.equations)

    def now(self, v: Atom) -> Atom:
        """What a variable of the old program is called in the new one."""
        return self.called.get(v, v) if isinstance(v, Var) else v

    def renamed(self, e: Equation) -> Equation:
        """An equation of the old program, with what it reads as that is called now."""
        if not any(v in self.called for v in e.reads):
            return e
        invars = [self.now(v) for v in e.eqn.invars]
        reads = [v for v in invars if isinstance(v, Var)]
        return e._replace(eqn=e.eqn.replace(invars=invars), reads=reads)

    def copy(self, e: Equation) -> None:
        """Write an equation of the old program."""
        self._append(self.renamed(e))

    def forget(self) -> None:
        """Forget which rows are there, so that they are looked for again."""
        self._known.clear()

    def write(
        self,
        eqn: JaxprEqn,
        invars: Sequence[Atom],
        outvars: Sequence[Var],
        regions: _Regions,
    ) -> None:
        """Write an equation that reads and writes other variables."""
        reads = [v for v in invars if isinstance(v, Var)]
        writes = [v for v in outvars if not isinstance(v, DropVar)]
        renamed = eqn.replace(invars=list(invars), outvars=list(outvars))
        self._append(Equation(renamed, regions, reads, writes))

    def graft(
        self, fn: Callable[..., object], atoms: Sequence[Atom], regions: _Regions
    ) -> list[Atom]:
        """Write what a function computes, and give its results."""
        # A new function each time, whose variables are nobody else's.
        made = jax.make_jaxpr(lambda *xs: fn(*xs))(*map(shape_of, atoms))
        flat = flatten(made)
        self.consts.update(flat.consts)
        named: dict[Var, Atom] = dict(zip(flat.invars, atoms, strict=True))

        def inner(v: Atom) -> Atom:
            return named.get(v, v) if isinstance(v, Var) else v

        for e in flat.equations:
            invars = [inner(v) for v in e.eqn.invars]
            self.write(e.eqn, invars, e.eqn.outvars, regions + e.regions)
        return [inner(v) for v in flat.outvars]

    def concatenated(self, atoms: Sequence[Atom], axis: int, regions: _Regions) -> Atom:
        """Write values one after the other, and give what they are together."""
        return self.graft(lambda *xs: jax.lax.concatenate(xs, axis), atoms, regions)[0]

    def _append(self, e: Equation) -> None:
        self.equations.append(e)
        self._made_by.update(dict.fromkeys(e.writes, e))

    def rows(self, v: Atom, rows: Rows, regions: _Regions) -> Atom:
        """Some rows of a value, written as far as they are not there yet.

        Args:
            v: the value.
            rows: which.
            regions: the remat regions in which they are needed.

        Returns:
            Their variable.
        """
        whole = (0, shape_of(v).shape[rows.axis])
        # A literal has no axis.
        if not isinstance(v, Var) or (rows.start, rows.stop) == whole:
            return v
        if (v, rows) not in self._known:
            self._known[v, rows] = self._rows(v, rows, regions)
        return self._known[v, rows]

    def _rows(self, v: Var, rows: Rows, regions: _Regions) -> Atom:
        if v in self.same:
            return self.rows(self.same[v], rows, regions)
        e = self._made_by.get(v)
        found = None
        if e is not None and e.eqn.primitive.name == "scan" and rows.axis == 0:
            found = self._of_turns(e.eqn, v, rows, regions)
        elif e is not None and len(e.eqn.outvars) == 1:
            found = self._through(e.eqn, rows, regions)
        if found is not None:
            return found
        if self.bottom is not None:
            self.bottom(v, rows.axis)
        (part,) = self.graft(
            lambda x: jax.lax.slice_in_dim(x, rows.start, rows.stop, axis=rows.axis),
            [v],
            regions,
        )
        return part

    def _through(self, eqn: JaxprEqn, rows: Rows, regions: _Regions) -> Atom | None:
        """Rows of the result of an equation from rows of what it reads, if that can be."""
        name, params, axis = eqn.primitive.name, dict(eqn.params), rows.axis
        shape = shape_of(eqn.outvars[0]).shape
        count = rows.stop - rows.start
        if name == "concatenate" and params["dimension"] == axis:
            return self._of_parts(eqn, rows, regions)
        # Of each operand the axis along which its rows are needed; `None`: all of it.
        axes: list[int | None] = []
        if name in _ENTRYWISE or name == "concatenate":
            if (found := _of_operands(eqn, axis)) is None:
                return None
            axes = found
        elif name == "transpose":
            axes = [params["permutation"][axis]]
        elif name in _REDUCTIONS:
            rank = len(shape) + len(params["axes"])
            kept = [i for i in range(rank) if i not in params["axes"]]
            axes = [kept[axis]]
        elif name == "random_bits" and "fry" in str(shape_of(eqn.invars[0]).dtype):
            # Each key draws by itself; those of another implementation need not.
            if axis >= len(shape_of(eqn.invars[0]).shape):
                return None
            axes = [axis]
        elif name == "squeeze":
            rank = len(shape_of(eqn.invars[0]).shape)
            kept = [i for i in range(rank) if i not in params["dimensions"]]
            axes = [kept[axis]]
        elif name == "slice":
            whole = shape_of(eqn.invars[0]).shape[axis]
            if shape[axis] != whole:
                return None
            params["limit_indices"] = _with(params["limit_indices"], axis, count)
            axes = [axis]
        elif name == "broadcast_in_dim":
            params["shape"] = _with(shape, axis, count)
            axes = [_before_broadcast(eqn, axis)]
        elif name == "reshape" and params.get("dimensions") is None:
            at = _before_reshape(eqn, axis)
            if at is None:
                return None
            params["new_sizes"] = _with(shape, axis, count)
            axes = [at]
        else:
            return None

        atoms = [
            v if at is None else self.rows(v, rows.along(at), regions)
            for v, at in zip(eqn.invars, axes, strict=True)
        ]
        # By the primitive itself: it says what shape the result has.
        (made,) = self.graft(
            lambda *xs: eqn.primitive.bind(*xs, **params), atoms, regions
        )
        return made

    def _of_turns(
        self, eqn: JaxprEqn, v: Var, rows: Rows, regions: _Regions
    ) -> Atom | None:
        """Rows of what the turns of a scan compute, each by itself."""
        numbers = of_single_turns(eqn)
        results = [eqn.outvars[i] for i in numbers]
        if v not in results:
            return None
        first, last = carried(eqn, eqn.params["jaxpr"].jaxpr)
        atoms = [*eqn.invars[:first]]
        atoms += [self.rows(x, rows, regions) for x in eqn.invars[last:]]
        # All of them by one scan, since they may be drawn of the same.
        run = some_turns(eqn, numbers, rows.stop - rows.start)
        made = self.graft(run, atoms, regions)
        self._known.update(((x, rows), m) for x, m in zip(results, made, strict=True))
        return self._known[v, rows]

    def _of_parts(self, eqn: JaxprEqn, rows: Rows, regions: _Regions) -> Atom:
        """Rows of what stands one after the other."""
        found: list[Atom] = []
        begin = 0
        for v in eqn.invars:
            size = shape_of(v).shape[rows.axis]
            start, stop = max(rows.start - begin, 0), min(rows.stop - begin, size)
            if start < stop:
                found.append(self.rows(v, Rows(rows.axis, start, stop), regions))
            begin += size
        if len(found) == 1:
            return found[0]
        return self.concatenated(found, rows.axis, regions)


def _with(shape: Sequence[int], axis: int, count: int) -> tuple[int, ...]:
    return (*shape[:axis], count, *shape[axis + 1 :])


def _of_operands(eqn: JaxprEqn, axis: int) -> list[int | None] | None:
    """Of each operand the axis along which rows are needed; `None`: that cannot be said."""
    rank = len(shape_of(eqn.outvars[0]).shape)
    shapes = [shape_of(v).shape for v in eqn.invars]
    if any(shape and len(shape) != rank for shape in shapes):
        return None
    # A number, or of 1 along an axis, is repeated there.
    repeats = eqn.primitive.name != "concatenate"
    return [
        None if repeats and shape[axis : axis + 1] in ((), (1,)) else axis
        for shape in shapes
    ]


def _before_broadcast(eqn: JaxprEqn, axis: int) -> int | None:
    """The axis that an axis of a broadcast array was; `None` if it was none, or of 1."""
    dimensions = tuple(eqn.params["broadcast_dimensions"])
    if axis not in dimensions:
        return None
    at = dimensions.index(axis)
    size = shape_of(eqn.invars[0]).shape[at]
    return at if size == shape_of(eqn.outvars[0]).shape[axis] else None


def _before_reshape(eqn: JaxprEqn, axis: int) -> int | None:
    """The axis that an axis of a reshaped array was, if it was one."""
    before, after = shape_of(eqn.invars[0]).shape, shape_of(eqn.outvars[0]).shape
    for at, size in enumerate(before):
        if size == after[axis] and prod(before[:at]) == prod(after[:axis]):
            return at
    return None
