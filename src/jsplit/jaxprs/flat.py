"""A traced function as a flat list of equations.

Nested `jit` is inlined. The bodies of `remat` are inlined too, but
remembered, so that each slice recomputes its own part of them. Built on the
public `jax.extend.core` alone. What takes slices and runs them is in
`jaxprs/slices.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple, Protocol, cast

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var
from jax.ref import AbstractRef

# By primitive, the parameter that holds the body. JAX has renamed some of
# them; a version knows only some of the names, and the others do no harm.
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}
_REMAT = {"checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr"}
# What is called once as it is, and has a derivative or a batching of its own.
_CALLED = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "composite": "jaxpr",
    "custom_vmap_call": "call",
}
Atom = Var | Literal


class Remat(NamedTuple):
    """One `jax.checkpoint` region: which call it was, and how it was asked to save."""

    number: int
    policy: Callable[..., bool] | None
    prevent_cse: bool


class Equation(NamedTuple):
    """One equation of a flat program.

    Attributes:
        eqn: the equation itself.
        regions: the remat regions around it, outermost first.
        reads: the variables that it reads.
        writes: the variables that it writes.
    """

    eqn: JaxprEqn
    regions: tuple[Remat, ...]
    # Without literals and dropped results, which no slice asks for: it is
    # these two that are walked over and over.
    reads: list[Var]
    writes: list[Var]


class Flat(NamedTuple):
    """A jaxpr with every call inlined.

    Attributes:
        invars: as in the jaxpr.
        outvars: as in the jaxpr; one may be a literal or an input.
        consts: captured arrays, by variable.
        equations: in an order in which they can run.
        empty: a jaxpr without equations, to be filled.
    """

    invars: Sequence[Var]
    outvars: Sequence[Atom]
    consts: dict[Var, jax.Array]
    equations: list[Equation]
    empty: Jaxpr


class _ShapedAval(Protocol):
    """What JAX knows of an array in a program; the class it gives it has no such types."""

    shape: tuple[int, ...]
    dtype: np.dtype


def shape_of(v: Atom) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable or literal."""
    aval = cast(_ShapedAval, v.aval)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def variable(shape: jax.ShapeDtypeStruct) -> Var:
    """A new variable of a shape and dtype."""
    return Var(jax.make_jaxpr(lambda x: x)(shape).jaxpr.invars[0].aval)


def on_one_device(v: Atom) -> bool:
    """Whether an array in a program has a known shape, and is not spread over a mesh."""
    aval = v.aval
    sharding = getattr(aval, "sharding", None)
    spread = any(axis is not None for axis in getattr(sharding, "spec", ()))
    # Along which axes of a mesh it differs, within a `shard_map`: it has moved from one
    # version to the next.
    varies = getattr(getattr(aval, "mat", aval), "varying", None) or getattr(
        aval, "vma", None
    )
    known = all(isinstance(n, int) for n in shape_of(v).shape)
    return known and not spread and not varies


def flatten(closed: ClosedJaxpr, *, remat: bool = True, calls: bool = False) -> Flat:
    """Inline every call of a traced function.

    Args:
        closed: as `jax.make_jaxpr` gives it.
        remat: whether the bodies of `jax.checkpoint` are inlined too; else
            each stays one equation.
        calls: whether functions with a derivative of their own are inlined too, for
            who asks what a value is, and takes no derivative.

    Returns:
        The flat program. Variables of the outermost jaxpr stay the same.
    """
    inliner = _Inliner(closed, remat, calls)
    outvars = inliner.inline(closed.jaxpr, {}, (), nested=False)
    empty = closed.jaxpr.replace(constvars=[], invars=[], outvars=[], eqns=[])
    return Flat(closed.jaxpr.invars, outvars, inliner.consts, inliner.equations, empty)


class _Inliner:
    """The equations and constants that have been found so far."""

    def __init__(self, closed: ClosedJaxpr, remat: bool, calls: bool):
        self.bodies = {
            **_INLINED,
            **(_REMAT if remat else {}),
            **(_CALLED if calls else {}),
        }
        self.consts: dict[Var, jax.Array] = dict(
            zip(closed.jaxpr.constvars, closed.consts, strict=True)
        )
        self.equations: list[Equation] = []
        self.numbers = count()

    def inline(
        self,
        jaxpr: Jaxpr,
        names: dict[Var, Atom],
        regions: tuple[Remat, ...],
        *,
        nested: bool,
    ) -> list[Atom]:
        """Take over the equations of one body.

        Args:
            jaxpr: the body.
            names: what its variables are in the flat program, where they
                are not themselves; those that it writes are added.
            regions: the remat regions around it.
            nested: whether it is the body of a call.

        Returns:
            What its outputs are in the flat program.
        """
        for eqn in jaxpr.eqns:
            invars = [_renamed(v, names) for v in eqn.invars]
            if self._is_inlined(eqn):
                outs = self._inline_call(eqn, invars, regions)
                names.update(zip(eqn.outvars, outs, strict=True))
                continue

            # JAX traces a function once and calls one body many times: each
            # time its variables need names of their own.
            outvars = list(eqn.outvars)
            if nested:
                fresh = [v if isinstance(v, DropVar) else Var(v.aval) for v in outvars]
                names.update(zip(outvars, fresh, strict=True))
                outvars = fresh
            self._append(eqn, invars, outvars, regions)
        return [_renamed(v, names) for v in jaxpr.outvars]

    def _is_inlined(self, eqn: JaxprEqn) -> bool:
        name = eqn.primitive.name
        if name not in self.bodies:
            return False
        if name not in _CALLED:
            return True
        body = eqn.params.get(self.bodies[name])
        inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
        # A version of JAX that hands a call more than its body reads is not followed.
        return isinstance(inner, Jaxpr) and len(inner.invars) == len(eqn.invars)

    def _inline_call(
        self, eqn: JaxprEqn, invars: Sequence[Atom], regions: tuple[Remat, ...]
    ) -> list[Atom]:
        """Take over the body of a call; what its outputs are in the flat program."""
        kind = eqn.primitive.name
        body = eqn.params[self.bodies[kind]]
        names: dict[Var, Atom] = {}
        if isinstance(body, ClosedJaxpr):
            for var, value in zip(body.jaxpr.constvars, body.consts, strict=True):
                names[var] = fresh = Var(var.aval)
                self.consts[fresh] = value
            body = body.jaxpr

        # A number for each call, since two regions that follow each other
        # may have been asked to save alike, and are yet two.
        if kind in _REMAT:
            policy = eqn.params.get("policy")
            prevent_cse = eqn.params.get("prevent_cse", True)
            regions += (Remat(next(self.numbers), policy, prevent_cse),)

        names.update(zip(body.invars, invars, strict=True))
        return self.inline(body, names, regions, nested=True)

    def _append(
        self,
        eqn: JaxprEqn,
        invars: list[Atom],
        outvars: list[Var],
        regions: tuple[Remat, ...],
    ) -> None:
        reads = [v for v in invars if isinstance(v, Var)]
        writes = [v for v in outvars if not isinstance(v, DropVar)]
        renamed = eqn.replace(invars=invars, outvars=outvars)
        self.equations.append(Equation(renamed, regions, reads, writes))


def _renamed(v: Atom, names: dict[Var, Atom]) -> Atom:
    """What a variable or literal of a body is in the flat program."""
    # A literal cannot be a key: it may hold an array, which has no hash.
    return v if isinstance(v, Literal) else names.get(v, v)


def values_only(flat: Flat) -> Flat:
    """Refuse a program that is no function of values.

    Args:
        flat: the program.

    Returns:
        The same program.

    Raises:
        ValueError: if it changes an array in place.
    """
    for e in flat.equations:
        # A slice would have to know which other slices write to the same
        # reference, and in which order.
        if any(isinstance(v.aval, AbstractRef) for v in (*e.reads, *e.writes)):
            where = e.eqn.primitive.name
            raise ValueError(
                f"the model uses a mutable array reference (in `{where}`): what changes "
                "in place cannot be divided between parties; compute new arrays instead."
            )
    return flat


def bodies(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs in an equation's parameters: of a scan, a cond, a custom derivative."""
    for value in eqn.params.values():
        # Branches of a `cond` come as a tuple, the body of a `scan` alone.
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner
