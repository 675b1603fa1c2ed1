"""A model as a flat list of equations, and slices of it that run on their own.

Nested `jit` is inlined; the bodies of `remat` are inlined too, but remembered, so that each slice
recomputes its own part of them. Built on the public `jax.extend.core` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import (
    ClosedJaxpr,
    DropVar,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    jaxpr_as_fun,
)
from jax.ref import AbstractRef

_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}
_REMAT = {"checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr"}
Atom = Var | Literal


class _Remat(NamedTuple):
    """One `jax.checkpoint` region: which call it was, and how it was asked to save."""

    number: int
    policy: Callable | None
    prevent_cse: bool


class Equation(NamedTuple):
    """One equation, the remat regions around it, outermost first, and the variables it reads and writes."""

    eqn: JaxprEqn
    regions: tuple[_Remat, ...]
    reads: list[Var]
    writes: list[Var]


def shape_of(v: Atom) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable or literal."""
    aval: Any = v.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


class Flat(NamedTuple):
    """A jaxpr with every call inlined.

    Attributes:
        invars, outvars: as in the jaxpr; an output may be a literal or an input.
        consts: captured arrays, by variable.
        equations: in an order in which they can run.
        empty: a jaxpr without equations, to be filled.
    """

    invars: Sequence[Var]
    outvars: Sequence[Atom]
    consts: dict[Var, Any]
    equations: list[Equation]
    empty: Jaxpr


def flatten(closed: ClosedJaxpr, *, remat: bool = True) -> Flat:
    """Inline every `jit` of a traced function, and every `remat` unless told not to."""
    consts = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    equations: list[Equation] = []
    calls = iter(range(1 << 62))

    def inline(
        jaxpr: Jaxpr, names: dict[Var, Atom], regions: tuple[_Remat, ...], nested: bool
    ) -> list[Atom]:
        def atom(v: Atom) -> Atom:
            return v if isinstance(v, Literal) else names.get(v, v)

        for eqn in jaxpr.eqns:
            invars = [atom(v) for v in eqn.invars]
            kind = eqn.primitive.name
            if kind in _INLINED or (remat and kind in _REMAT):
                body, around = eqn.params[_INLINED.get(kind) or _REMAT[kind]], regions
                inner: dict[Var, Atom] = {}
                if isinstance(body, ClosedJaxpr):
                    for var, value in zip(
                        body.jaxpr.constvars, body.consts, strict=True
                    ):
                        inner[var] = fresh = Var(var.aval)
                        consts[fresh] = value
                    body = body.jaxpr
                if kind in _REMAT:
                    around += (
                        _Remat(
                            next(calls),
                            eqn.params.get("policy"),
                            eqn.params.get("prevent_cse", True),
                        ),
                    )
                inner.update(zip(body.invars, invars, strict=True))
                names.update(
                    zip(eqn.outvars, inline(body, inner, around, True), strict=True)
                )
            else:
                if nested:  # the same body may be inlined many times: its variables need fresh names
                    names.update(
                        {
                            v: Var(v.aval)
                            for v in eqn.outvars
                            if not isinstance(v, DropVar)
                        }
                    )
                outvars: list[Any] = [
                    v if isinstance(v, DropVar) else names.get(v, v)
                    for v in eqn.outvars
                ]
                reads = [v for v in invars if isinstance(v, Var)]
                writes = [v for v in outvars if not isinstance(v, DropVar)]
                equations.append(
                    Equation(
                        eqn.replace(invars=invars, outvars=outvars),
                        regions,
                        reads,
                        writes,
                    )
                )
        return [atom(v) for v in jaxpr.outvars]

    outvars = inline(closed.jaxpr, {}, (), False)
    empty = closed.jaxpr.replace(constvars=[], invars=[], outvars=[], eqns=[])
    return Flat(closed.jaxpr.invars, outvars, consts, equations, empty)


def values_only(flat: Flat) -> Flat:
    """`flat` itself; what is not a function of values, a mutable array, is refused."""
    for e in flat.equations:
        if any(isinstance(v.aval, AbstractRef) for v in (*e.reads, *e.writes)):
            raise ValueError(
                f"the model uses a mutable array reference (in `{e.eqn.primitive.name}`): what changes in place cannot be "
                "divided between parties; compute new arrays instead."
            )
    return flat


class _Slice(NamedTuple):
    """What it takes to compute some variables: the equations, and the variables read from outside."""

    equations: list[Equation]
    reads: set[Var]


def backward_slice(
    flat: Flat, outs: Iterable[Atom], stops: Iterable[Var] = ()
) -> _Slice:
    """The equations that `outs` need, going backward and never past a variable in `stops`."""
    stops, needed, kept = set(stops), {v for v in outs if isinstance(v, Var)}, []
    for equation in reversed(flat.equations):
        if any(v in needed and v not in stops for v in equation.writes):
            kept.append(equation)
            needed.update(equation.reads)
    written = {v for e in kept for v in e.writes}
    return _Slice(
        kept[::-1],
        {v for v in needed if v in stops or v not in written} - flat.consts.keys(),
    )


def evaluate(
    flat: Flat,
    equations: Sequence[Equation],
    outs: Sequence[Atom],
    values: Mapping[Var, Any],
) -> list[Any]:
    """Run `equations` from `values` of the variables they read; return the values of `outs`."""

    def run(
        equations: Sequence[Equation],
        given: Sequence[Var],
        wanted: Sequence[Var],
        depth: int,
        *values,
    ) -> list[Any]:
        """Values of `wanted`: one remat region, or run of equations outside any, after the other."""
        env = dict(zip(given, values, strict=True))
        runs = [
            (region, list(es))
            for region, es in groupby(equations, lambda e: e.regions[depth : depth + 1])
        ]
        later, needed = set(wanted), []
        for _, es in reversed(runs):
            needed.append(later)
            later = later | {v for e in es for v in e.reads}
        for (region, es), after in zip(runs, reversed(needed), strict=True):
            written = dict.fromkeys(v for e in es for v in e.writes)
            reads = list(
                dict.fromkeys(v for e in es for v in e.reads if v not in written)
            )
            writes = [v for v in written if v in after]
            if region:
                part = partial(run, es, reads, writes, depth + 1)
                function = jax.checkpoint(
                    part, policy=region[0].policy, prevent_cse=region[0].prevent_cse
                )
            else:
                body = flat.empty.replace(
                    invars=reads, outvars=writes, eqns=[e.eqn for e in es]
                )
                function = jaxpr_as_fun(ClosedJaxpr(body, ()))
            env.update(zip(writes, function(*[env[v] for v in reads]), strict=True))
        return [env[v] for v in wanted]

    env = {**flat.consts, **values}
    computed = list(dict.fromkeys(v for v in outs if isinstance(v, Var)))
    reads = {v for e in equations for v in e.reads} | set(computed)
    given = [v for v in env if v in reads]
    env = dict(
        zip(
            computed,
            run(equations, given, computed, 0, *[env[v] for v in given]),
            strict=True,
        )
    )
    return [
        env[v] if isinstance(v, Var) else jnp.asarray(v.val, shape_of(v).dtype)
        for v in outs
    ]


def bodies(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs inside an equation's parameters: of a scan, a cond, a custom derivative."""
    for value in eqn.params.values():
        for inner in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner


_END = "\x1f"
"""Between a name and a path within the pytree that was named: no identifier, and hardly a key, holds it."""


def tag_arrays(tree: Any, name: str) -> Any:
    """Name every array of a pytree by `name` and its path in the tree, by JAX's own `checkpoint_name`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    ends = [
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves
    ]
    named = [
        checkpoint_name(x, name + _END + e) if hasattr(x, "dtype") else x
        for e, (_, x) in zip(ends, leaves, strict=True)
    ]
    return structure.unflatten(named)


def untagged(tag: str) -> tuple[str, str]:
    """The name, and the path within the pytree that was named."""
    name, _, end = tag.partition(_END)
    return name, end


def inside(eqns: Iterable[JaxprEqn], outer: str = "") -> Iterator[tuple[str, str]]:
    """Every name tag that lies in the body of some equation, with the name of that equation's primitive."""
    for eqn in eqns:
        if eqn.primitive.name == "name" and outer:
            yield eqn.params["name"], outer
        for body in bodies(eqn):
            yield from inside(body.eqns, outer or eqn.primitive.name)


CUT = "jsplit.cut/"


MODULE = "jsplit.module/"
"""Prefixes of the names that marked values, and the outputs of submodules, carry while a model is traced."""
