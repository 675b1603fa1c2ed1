"""Slices of a flat program: which equations some values need, and running them.

`backward_slice` finds the equations, `evaluate` runs them from the values
that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun

from jsplit.jaxprs.flat import Atom, Equation, Flat, Remat, shape_of


class _Slice(NamedTuple):
    """What it takes to compute some variables.

    Attributes:
        equations: in the order in which they run.
        reads: the variables that they, or the results, read from outside.
    """

    equations: list[Equation]
    reads: set[Var]


def backward_slice(
    flat: Flat, outs: Iterable[Atom], stops: Iterable[Var] = ()
) -> _Slice:
    """Find the equations that some values need.

    Args:
        flat: the program.
        outs: the values.
        stops: variables that are given, and not computed.

    Returns:
        The equations from `outs` backward, never past a variable in
        `stops`.
    """
    stops = set(stops)
    needed = {v for v in outs if isinstance(v, Var)}
    kept: list[Equation] = []
    # Backward, so that whatever reads a variable has been seen before what
    # writes it: one pass is enough.
    for equation in reversed(flat.equations):
        if any(v in needed and v not in stops for v in equation.writes):
            kept.append(equation)
            needed.update(equation.reads)
    kept.reverse()

    # An equation with several results may have been kept for another than
    # the one that is a stop: the stop is still read from outside.
    written = {v for e in kept for v in e.writes}
    reads = {v for v in needed if v in stops or v not in written}
    return _Slice(kept, reads - flat.consts.keys())


def evaluate(
    flat: Flat,
    equations: Sequence[Equation],
    outs: Sequence[Atom],
    values: Mapping[Var, jax.Array],
) -> list[jax.Array]:
    """Run some equations of a flat program.

    Args:
        flat: the program, for its constants.
        equations: in an order in which they can run.
        outs: the values to return; they may be inputs, constants or
            literals.
        values: of the variables that `equations` and `outs` read.

    Returns:
        The values of `outs`.
    """
    env = {**flat.consts, **values}
    computed = list(dict.fromkeys(v for v in outs if isinstance(v, Var)))
    # Only what is read goes in: a remat region keeps its inputs for the
    # backward pass.
    reads = {v for e in equations for v in e.reads} | set(computed)
    given = [v for v in env if v in reads]
    found = _run(flat, equations, given, computed, 0, *[env[v] for v in given])

    env = dict(zip(computed, found, strict=True))
    results: list[jax.Array] = []
    for v in outs:
        # A literal is a Python or NumPy number; its own dtype may be
        # another than the program gave it.
        value = env[v] if isinstance(v, Var) else jnp.asarray(v.val, shape_of(v).dtype)
        results.append(value)
    return results


class _Piece(NamedTuple):
    """Equations in a row that lie in one remat region, or in none.

    Attributes:
        region: of depth `depth`, if any.
        equations: in order.
        wanted: the variables that are read after it.
    """

    region: Remat | None
    equations: list[Equation]
    wanted: set[Var]


def _pieces(
    equations: Sequence[Equation], wanted: Sequence[Var], depth: int
) -> list[_Piece]:
    """Divide equations by the remat region around each at one depth."""
    grouped = groupby(equations, lambda e: e.regions[depth : depth + 1])
    groups = [(regions, list(group)) for regions, group in grouped]

    # From the end: what a piece must give is what all later ones read, and
    # the results.
    later = set(wanted)
    pieces: list[_Piece] = []
    for regions, group in reversed(groups):
        pieces.append(_Piece(regions[0] if regions else None, group, later))
        later = later | {v for e in group for v in e.reads}
    pieces.reverse()
    return pieces


def _run(
    flat: Flat,
    equations: Sequence[Equation],
    given: Sequence[Var],
    wanted: Sequence[Var],
    depth: int,
    *values: jax.Array,
) -> list[jax.Array]:
    """Run equations piece by piece, each remat region under `jax.checkpoint` again."""
    env = dict(zip(given, values, strict=True))
    for piece in _pieces(equations, wanted, depth):
        # Dictionaries as ordered sets: the order of variables is part of
        # the program, and of the key under which it is compiled once.
        written = dict.fromkeys(v for e in piece.equations for v in e.writes)
        read = dict.fromkeys(v for e in piece.equations for v in e.reads)
        reads = [v for v in read if v not in written]
        writes = [v for v in written if v in piece.wanted]

        function: Callable[..., list[jax.Array]]
        if piece.region is None:
            eqns = [e.eqn for e in piece.equations]
            body = flat.empty.replace(invars=reads, outvars=writes, eqns=eqns)
            function = jaxpr_as_fun(ClosedJaxpr(body, ()))
        else:
            # One level deeper, since regions lie within regions.
            inner = partial(_run, flat, piece.equations, reads, writes, depth + 1)
            policy, prevent_cse = piece.region.policy, piece.region.prevent_cse
            function = jax.checkpoint(inner, policy=policy, prevent_cse=prevent_cse)

        found = function(*[env[v] for v in reads])
        env.update(zip(writes, found, strict=True))
    return [env[v] for v in wanted]
