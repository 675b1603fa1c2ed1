"""A function in two halves: what some of its results need, and the rest.

The second half goes on from the first. A party sends what the
first half gives while the second is still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import jax
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import TreeDef
from jsplit.jaxprs.flat import Atom, Equation, Flat, flatten
from jsplit.jaxprs.slices import backward_slice, evaluate

_Function = Callable[..., tuple[PyTree, ...]]


class _Result(NamedTuple):
    """A pytree that a function computes: its structure, and the variables at its leaves."""

    structure: TreeDef
    leaves: list[Atom]


class _Half(NamedTuple):
    """Some equations of a traced function, and the results that are known after them."""

    equations: list[Equation]
    results: list[_Result]


class _Halves(NamedTuple):
    """A traced function in two: the second half reads what is `carried` over."""

    flat: Flat
    first: _Half
    second: _Half
    carried: list[Var]


def split_early_late(
    run: _Function, early: Sequence[bool]
) -> tuple[_Function, _Function]:
    """Divide a function into two that together compute what it does.

    No equation of it is in both; one is in neither if no result
    needs it. What acts beyond its results, as a callback does,
    stays in order in the first.

    Args:
        run: a pure function, traced once for both halves and anew
            for arguments of other shapes.
        early: for each of its results, whether the first half
            gives it.

    Returns:
        `first(*args) -> (carried, *results)` gives the results
        that are early, and computes nothing that only others
        need; `second(carried, *args)` gives the others.
    """
    # By structure and shapes of the arguments, as `jit` keeps its
    # own: each half is jitted alone, and both must be halves of
    # one trace.
    known: dict[Hashable, _Halves] = {}

    def traced(args: tuple[PyTree, ...]) -> tuple[_Halves, dict[Var, jax.Array]]:
        leaves, structure = jax.tree.flatten(args)
        like = structure, tuple(map(jax.typeof, leaves))
        if like not in known:
            known[like] = _halve(run, early, args)
        halves = known[like]
        return halves, dict(zip(halves.flat.invars, leaves, strict=True))

    def first(*args: PyTree) -> tuple[PyTree, ...]:
        halves, values = traced(args)
        return _compute(halves.flat, halves.first, values)

    def second(carried: Sequence[jax.Array], *args: PyTree) -> tuple[PyTree, ...]:
        halves, values = traced(args)
        values.update(zip(halves.carried, carried, strict=True))
        return _compute(halves.flat, halves.second, values)

    return first, second


def _halve(run: _Function, early: Sequence[bool], args: tuple[PyTree, ...]) -> _Halves:
    """Trace a function and divide its equations."""
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(*args)
    # A remat stays whole: what it recomputes serves all its
    # results.
    flat = flatten(closed, remat=False)
    results = _results_of(flat.outvars, shapes)
    now = [x for x, is_early in zip(results, early, strict=True) if is_early]
    later = [x for x, is_early in zip(results, early, strict=True) if not is_early]

    first, second = _divide(flat, [v for x in now for v in x.leaves])
    written = dict.fromkeys(v for e in first for v in e.writes)
    needed = {v for e in second for v in e.reads}
    needed |= {v for x in later for v in x.leaves if isinstance(v, Var)}
    carried = [v for v in written if v in needed]

    # Handed over as a list, as one more result of the first half.
    structure = jax.tree.structure([0] * len(carried))
    handed = _Result(structure, [*carried])
    return _Halves(flat, _Half(first, [handed, *now]), _Half(second, later), carried)


def _results_of(outvars: Sequence[Atom], shapes: Sequence[PyTree]) -> list[_Result]:
    """The variables of each result of a function."""
    outs: Iterator[Atom] = iter(outvars)
    results: list[_Result] = []
    for shape in shapes:
        structure = jax.tree.structure(shape)
        leaves = list(islice(outs, structure.num_leaves))
        results.append(_Result(structure, leaves))
    return results


def _divide(
    flat: Flat, wanted: Sequence[Atom]
) -> tuple[list[Equation], list[Equation]]:
    """The equations that some values need, and the others, each in their order."""
    # What acts (a callback, a write to a reference) is never left
    # for later: what follows it in the first half may see what it
    # did.
    acting = [v for e in flat.equations if e.eqn.effects for v in (*e.reads, *e.writes)]
    needed = backward_slice(flat, [*acting, *wanted])
    computed = {v for e in needed.equations for v in e.writes}
    # A vjp leaves equations that nobody needs, as of weights that are not trained. XLA would
    # drop them within one program, and what they read would be carried to the second.
    live = backward_slice(flat, [*acting, *flat.outvars])
    used = {v for e in live.equations for v in e.writes}

    first: list[Equation] = []
    second: list[Equation] = []
    for e in flat.equations:
        is_first = e.eqn.effects or any(v in computed for v in e.writes)
        if is_first:
            first.append(e)
        elif any(v in used for v in e.writes):
            second.append(e)
    return first, second


def _compute(
    flat: Flat, half: _Half, values: dict[Var, jax.Array]
) -> tuple[PyTree, ...]:
    """The results of one half, from the values of what it reads."""
    outs = [v for x in half.results for v in x.leaves]
    found = iter(evaluate(flat, half.equations, outs, values))
    results: list[PyTree] = []
    for x in half.results:
        results.append(x.structure.unflatten(islice(found, len(x.leaves))))
    return tuple(results)
