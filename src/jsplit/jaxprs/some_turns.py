"""Some turns of a scan by themselves: of results that each turn computes without those before.

So a scan draws the weights of layers, each of a key of its own: a few layers need a few turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax.extend.core import ClosedJaxpr, DropVar, JaxprEqn

from jsplit.jaxprs.dependence import dependence
from jsplit.jaxprs.flat import flatten
from jsplit.jaxprs.macs import carried
from jsplit.jaxprs.slices import backward_slice, evaluate


def of_single_turns(eqn: JaxprEqn) -> list[int]:
    """Which results of a scan are stacked of what each turn computes by itself, by number.

    Args:
        eqn: the scan.
    """
    if eqn.effects:
        return []
    body: ClosedJaxpr = eqn.params["jaxpr"]
    first, last = carried(eqn, body.jaxpr)
    given = [int(first <= i < last) for i in range(len(body.jaxpr.invars))]
    found = dependence(body.jaxpr, given)
    return [
        i
        for i, (v, handed) in enumerate(zip(eqn.outvars, found, strict=True))
        if i >= last - first and not handed and not isinstance(v, DropVar)
    ]


def some_turns(
    eqn: JaxprEqn, numbers: Sequence[int], count: int
) -> Callable[..., list[jax.Array]]:
    """The rows of such results, as a function of what the scan reads.

    Args:
        eqn: the scan.
        numbers: of the results.
        count: how many turns; nothing need go in turn by turn, as of layers that all
            begin alike.

    Returns:
        A function of the scan's constants, and of some rows of what goes in turn by turn.
    """
    body: ClosedJaxpr = eqn.params["jaxpr"]
    first, last = carried(eqn, body.jaxpr)
    flat = flatten(body)
    outs = [flat.outvars[i] for i in numbers]
    equations = backward_slice(flat, outs).equations
    read = [*flat.invars[:first], *flat.invars[last:]]

    def run(*given: jax.Array) -> list[jax.Array]:
        def turn(_: None, rows: list[jax.Array]) -> tuple[None, list[jax.Array]]:
            values = dict(zip(read, [*given[:first], *rows], strict=True))
            return None, evaluate(flat, equations, outs, values)

        return jax.lax.scan(turn, None, list(given[first:]), count)[1]

    return run
