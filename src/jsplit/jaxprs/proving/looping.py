"""Loops with few turns, and branches that the code takes, as programs without them.

So that entries are followed through `lax.map`, `fori_loop` and `scan` as through anything else.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun

from jsplit.jaxprs.flat import Flat, flatten, shape_of
from jsplit.jaxprs.macs import carried

LONGEST = 2000
"""Equations of all turns of a loop that is followed."""


# Few: what is kept may keep a model alive.
@lru_cache(maxsize=8)
def unrolled(eqn: JaxprEqn) -> Flat | None:
    """A scan as its turns one after the other; `None` of one with too many.

    Args:
        eqn: the scan.

    Returns:
        A program with the inputs and results of the scan.
    """
    closed, turns = eqn.params["jaxpr"], int(eqn.params["length"])
    if turns * max(1, len(closed.jaxpr.eqns)) > LONGEST:
        return None
    first, last = carried(eqn, closed.jaxpr)
    order = range(turns)[::-1] if eqn.params["reverse"] else range(turns)

    def run(*args: jax.Array) -> list[jax.Array]:
        consts, carry, sliced = args[:first], list(args[first:last]), args[last:]
        kept: dict[int, list[jax.Array]] = {}
        for i in order:
            given = [*consts, *carry, *(x[i] for x in sliced)]
            results = jaxpr_as_fun(closed)(*given)
            carry, kept[i] = list(results[: last - first]), results[last - first :]
        rows = zip(*(kept[i] for i in range(turns)), strict=True)
        return [*carry, *(jnp.stack(row) for row in rows)]

    return flatten(jax.make_jaxpr(run)(*map(shape_of, eqn.invars)), calls=True)


def branch(eqn: JaxprEqn, index: int) -> Flat:
    """The branch of a `cond` that an index picks, as a program."""
    branches = eqn.params["branches"]
    closed = branches[max(0, min(index, len(branches) - 1))]
    assert isinstance(closed, ClosedJaxpr)
    return flatten(closed, calls=True)
