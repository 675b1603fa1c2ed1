"""Which results of a traced function depend on which of its arguments, by its jaxpr.

A dependence is one of structure, whatever the numbers are. The body of a loop or
branch counts as one operation: so more may be found than there is, and never less.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import Atom, Equation, Flat, flatten

# What makes zeros of zeros, and is found between a derivative that JAX knows to be zero
# and the result.
_KEEPS_ZERO = {
    "add_any",
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "neg",
    "reshape",
    "squeeze",
    "transpose",
}


class Reads(NamedTuple):
    """What each leaf of a function's result depends on.

    Attributes:
        results: by leaf of the result, the leaves of the arguments that it depends on,
            as the bits of an integer.
        effects: the leaves that an effect (`jax.debug.print`, a callback) depends on.
        zeros: the leaves of the result that are 0 whatever the arguments are.
        shapes: of the result.
    """

    results: list[int]
    effects: int
    zeros: frozenset[int]
    shapes: PyTree


def reads_of(function: Callable[..., PyTree], *args: PyTree) -> Reads:
    """Trace a function on shapes, and find what its results depend on.

    Args:
        function: of pytrees of arrays.
        *args: their shapes and dtypes.

    Returns:
        The dependences; leaves are numbered through all arguments.
    """

    # A new function each time: `make_jaxpr` caches by identity, and would not see that
    # JAX's configuration is another.
    def fresh(*args: PyTree) -> PyTree:
        return function(*args)

    closed, shapes = jax.make_jaxpr(fresh, return_shape=True)(*args)
    flat = flatten(closed)
    # Sets as bits: a union is one operation, however many arguments there are.
    reads: dict[Atom, int] = {v: 1 << i for i, v in enumerate(flat.invars)}
    zeros: set[Atom] = set()
    effects = 0
    for equation in flat.equations:
        found = _union(reads.get(v, 0) for v in equation.reads)
        reads.update(dict.fromkeys(equation.writes, found))
        if _is_zero(equation, zeros):
            zeros.update(equation.writes)
        # What changes an array in place has an effect too. What comes out of the array
        # later is not followed: all results count as coming from it.
        if getattr(equation.eqn, "effects", ()):
            effects |= found

    results, known = [], set()
    for i, v in enumerate(flat.outvars):
        is_var = isinstance(v, Var)
        results.append(effects | (reads.get(v, 0) if is_var else 0))
        if v in zeros if is_var else not np.any(v.val):
            known.add(i)
    return Reads(results, effects, frozenset(known), shapes)


def leaves_in(bits: int, args: Sequence[PyTree]) -> list[frozenset[int]]:
    """The leaves of each argument that are in a set, by their numbers in the argument.

    Args:
        bits: a set of leaves of all arguments, as `Reads` has them.
        args: the arguments, or their shapes.
    """
    found, first = [], 0
    for tree in args:
        count = len(jax.tree.leaves(tree))
        own = frozenset(i for i in range(count) if bits >> (first + i) & 1)
        found.append(own)
        first += count
    return found


def union(results: Sequence[int], chosen: Collection[int]) -> int:
    """What any of the chosen results depends on."""
    return _union(results[i] for i in chosen)


def _union(sets: Iterable[int]) -> int:
    found = 0
    for bits in sets:
        found |= bits
    return found


def _is_zero(equation: Equation, zeros: Collection[Atom]) -> bool:
    """Whether an equation gives zeros because it is given nothing else."""
    if equation.eqn.primitive.name not in _KEEPS_ZERO:
        return False
    return all(
        v in zeros if isinstance(v, Var) else not np.any(v.val)
        for v in equation.eqn.invars
    )


def made_of(
    flat: Flat, inputs: Collection[Var], constants: Collection[Var]
) -> set[Var]:
    """The variables that are made of some inputs and constants, and of nothing else.

    Args:
        flat: the program.
        inputs: of it.
        constants: further inputs that are known to everybody.
    """
    made = {*inputs}
    known = {*flat.consts, *constants, *made}
    for equation in flat.equations:
        if equation.writes and all(v in known for v in equation.reads):
            known.update(equation.writes)
            if any(v in made for v in equation.reads):
                made.update(equation.writes)
    return made
