"""Which results of a traced function depend on which of its arguments, by its jaxpr.

A dependence is one of structure, whatever the numbers are. The body of a loop or
branch counts as one operation, so there may be fewer dependences than are found, and
never more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import Equation, Flat, flatten


class Reads(NamedTuple):
    """The arguments that each result of a function depends on, as leaves by their numbers.

    Attributes:
        results: by leaf of the result, a set of leaves of the arguments, as the bits of
            an integer.
        effects: those that an effect (`jax.debug.print`, a callback) depends on.
        structure: the result's shapes.
    """

    results: list[int]
    effects: int
    structure: PyTree


def reads_of(function: Callable[..., PyTree], *args: PyTree) -> Reads:
    """Trace a function on shapes, and find what its results depend on.

    Args:
        function: of pytrees of arrays.
        *args: their shapes and dtypes.

    Returns:
        By leaf of the result, the leaves of all arguments that it depends on.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    flat = flatten(closed)
    # Sets of arguments as bits: their union is one operation, however many there are.
    reads: dict[Var, int] = {v: 1 << i for i, v in enumerate(flat.invars)}
    effects = _propagate(flat, reads)
    results = [reads.get(v, 0) if isinstance(v, Var) else 0 for v in flat.outvars]
    return Reads(results, effects, shapes)


def _propagate(flat: Flat, reads: dict[Var, int]) -> int:
    """Add what every equation writes to `reads`; what effects depend on is returned."""
    effects = 0
    for equation in flat.equations:
        found = _union([reads.get(v, 0) for v in equation.reads])
        reads.update(dict.fromkeys(equation.writes, found))
        if _has_effect(equation):
            effects |= found
    return effects


def _has_effect(equation: Equation) -> bool:
    # Arrays that change in place have effects too: what is written to one counts.
    return bool(getattr(equation.eqn, "effects", ()))


def _union(sets: Sequence[int]) -> int:
    found = 0
    for bits in sets:
        found |= bits
    return found
