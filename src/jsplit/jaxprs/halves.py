"""A function in two halves: what some of its results need, and the rest, which goes on from there.

A party can send what the first half gives while the second is still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import Atom, Equation, Flat, backward_slice, evaluate, flatten


class _Result(NamedTuple):
    """A pytree that a traced function computes: its structure, and the variables at its leaves."""

    structure: Any
    leaves: list[Atom]


class _Half(NamedTuple):
    """Some equations of a traced function, and the results to be had after them."""

    equations: list[Equation]
    results: list[_Result]


class _Halves(NamedTuple):
    """A traced function in two: the second half reads what is `carried` over from the first."""

    flat: Flat
    first: _Half
    second: _Half
    carried: list[Var]


def split_early_late(
    run: Callable[..., tuple], early: Sequence[bool]
) -> tuple[Callable[..., tuple], Callable[..., tuple]]:
    """Two functions that together are `run`: no equation of it is in both, and all are in one.

    `first(*args) -> (carried, *results)` gives the results that are early and computes nothing that only others need;
    `second(carried, *args)` gives the others. What acts beyond its results, as a callback does, stays in order in the first.

    Args:
        run: a pure function, traced once for both halves and anew for arguments of other shapes.
        early: for each of its results, whether the first half gives it.
    """
    known: dict[Any, _Halves] = {}

    def traced(args: tuple) -> tuple[_Halves, dict[Var, Any]]:
        leaves, structure = jax.tree.flatten(args)
        like = structure, tuple(map(jax.typeof, leaves))
        if like not in known:
            known[like] = _halve(run, early, args)
        return known[like], dict(zip(known[like].flat.invars, leaves, strict=True))

    def first(*args: PyTree) -> tuple:
        (flat, half, _, _), values = traced(args)
        return _compute(flat, half, values)

    def second(carried: Sequence[jax.Array], *args: PyTree) -> tuple:
        (flat, _, half, variables), values = traced(args)
        return _compute(
            flat, half, {**values, **dict(zip(variables, carried, strict=True))}
        )

    return first, second


def _halve(run: Callable[..., tuple], early: Sequence[bool], args: tuple) -> _Halves:
    """Trace `run` and divide its equations. A remat stays whole: what it recomputes serves all its results."""
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(*args)
    flat = flatten(closed, remat=False)
    outs, structures = iter(flat.outvars), map(jax.tree.structure, shapes)
    results = [
        _Result(structure, list(islice(outs, structure.num_leaves)))
        for structure in structures
    ]
    now = [x for x, e in zip(results, early, strict=True) if e]
    later = [x for x, e in zip(results, early, strict=True) if not e]

    acting = [v for e in flat.equations if e.eqn.effects for v in (*e.reads, *e.writes)]
    wanted = backward_slice(flat, [*acting, *(v for x in now for v in x.leaves)])
    computed = dict.fromkeys(v for e in wanted.equations for v in e.writes)
    first, second = [], []
    for e in flat.equations:
        (
            first if e.eqn.effects or any(v in computed for v in e.writes) else second
        ).append(e)
    needed = {v for e in second for v in e.reads} | {
        v for x in later for v in x.leaves if isinstance(v, Var)
    }
    carried = [v for v in computed if v in needed]
    handed = _Result(jax.tree.structure([0] * len(carried)), [*carried])
    return _Halves(flat, _Half(first, [handed, *now]), _Half(second, later), carried)


def _compute(flat: Flat, half: _Half, values: dict[Var, Any]) -> tuple:
    """The results of one half, from the values of what it reads."""
    found = iter(
        evaluate(
            flat, half.equations, [v for x in half.results for v in x.leaves], values
        )
    )
    return tuple(
        x.structure.unflatten(islice(found, len(x.leaves))) for x in half.results
    )
