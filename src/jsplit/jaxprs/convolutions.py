"""Convolutions that sum over a large batch, as weight gradients do: on a CPU they are fast over a small one.

XLA's convolution for a CPU takes 2 to 8 times as long for each example when it sums over more than some two hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from math import prod
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import bodies, evaluate, flatten, shape_of

_PART = 64
"""Examples that are summed over at once."""


def in_parts(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, to be compiled: each weight gradient of a convolution as a sum over parts of the batch.

    Exact but for the order of a sum, whatever else the function does with the batch."""

    def run(*args: PyTree) -> PyTree:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        flat = flatten(closed, remat=False)
        env: dict[Any, Any] = dict(zip(flat.invars, jax.tree.leaves(args), strict=True))
        for large, group in groupby(flat.equations, lambda e: _sums_much(e.eqn)):
            equations = list(group)
            writes = [v for e in equations for v in e.writes]
            if large:
                found = [
                    _part_by_part(e.eqn, *[env[v] for v in e.reads]) for e in equations
                ]
            else:
                found = evaluate(flat, equations, writes, env)
            env.update(zip(writes, found, strict=True))
        return jax.tree.unflatten(
            jax.tree.structure(shapes), evaluate(flat, [], flat.outvars, env)
        )

    return run


def _sums_much(eqn: JaxprEqn) -> bool:
    """Whether it is a convolution that sums over more than one part, and whose window is larger than its result."""
    if eqn.primitive.name != "conv_general_dilated":
        return False
    groups = eqn.params["feature_group_count"], eqn.params["batch_group_count"]
    numbers, window, out = (
        eqn.params["dimension_numbers"],
        shape_of(eqn.invars[1]).shape,
        shape_of(eqn.outvars[0]).shape,
    )
    larger = prod(window[i] for i in numbers.rhs_spec[2:]) > prod(
        out[i] for i in numbers.out_spec[2:]
    )
    return groups == (1, 1) and window[numbers.rhs_spec[1]] > _PART and larger


def _part_by_part(eqn: JaxprEqn, x: jax.Array, window: jax.Array) -> jax.Array:
    """A convolution as the sum of those of parts of what it sums over."""
    _, along_x, *_ = eqn.params["dimension_numbers"].lhs_spec
    _, along, *_ = eqn.params["dimension_numbers"].rhs_spec
    total: Any = 0
    for start in range(0, window.shape[along], _PART):
        end = min(start + _PART, window.shape[along])
        parts = (
            jax.lax.slice_in_dim(v, start, end, axis=a)
            for v, a in ((x, along_x), (window, along))
        )
        total += eqn.primitive.bind(*parts, **eqn.params)
    return total


def convolves_on_cpu(function: Callable, *shapes: PyTree) -> bool:
    """Whether a loop over `function` should not be compiled: it holds a convolution, and the device is a CPU."""

    def convolves(jaxpr: Jaxpr) -> bool:
        return any(
            e.primitive.name == "conv_general_dilated" or any(map(convolves, bodies(e)))
            for e in jaxpr.eqns
        )

    return jax.default_backend() == "cpu" and convolves(
        jax.make_jaxpr(function)(*shapes).jaxpr
    )
