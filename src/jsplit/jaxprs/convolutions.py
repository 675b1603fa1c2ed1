"""Convolutions on a CPU, where XLA is slow at two things, and what is done about it.

A convolution that sums over more than some two hundred examples,
as weight gradients do, takes 2 to 8 times as long for each; and
one within a compiled loop takes many times as long as the same
one called from Python.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from math import prod

import jax
from jax.extend.core import Jaxpr, Var

from jsplit.core.base import PyTree
from jsplit.core.trees import tree_sum
from jsplit.jaxprs.flat import Equation, bodies, flatten, shape_of
from jsplit.jaxprs.slices import evaluate

# Examples that are summed over at once: well below the two
# hundred at which XLA's kernel becomes slow, and enough that a
# sum of the parts costs nothing beside them.
_PART = 64


def in_parts(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function with each weight gradient of a convolution as a sum over parts.

    Exact but for the order of a sum, whatever else the function
    does with the batch. It is meant to be compiled.

    Args:
        function: of pytrees of arrays.

    Returns:
        A function of the same arguments and results.
    """

    def run(*args: PyTree) -> PyTree:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        # A remat stays one equation. Its convolutions are left as
        # they are: inlined, it would not be recomputed any more.
        flat = flatten(closed, remat=False)
        env: dict[Var, jax.Array] = dict(flat.consts)
        env.update(zip(flat.invars, jax.tree.leaves(args), strict=True))
        for large, group in groupby(flat.equations, _sums_much):
            equations = list(group)
            writes = [v for e in equations for v in e.writes]
            if large:
                found = [_part_by_part(e, env) for e in equations]
            else:
                found = evaluate(flat, equations, writes, env)
            env.update(zip(writes, found, strict=True))

        results = evaluate(flat, [], flat.outvars, env)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _sums_much(equation: Equation) -> bool:
    """Whether it is a weight gradient of a convolution, over more than one part."""
    eqn = equation.eqn
    if eqn.primitive.name != "conv_general_dilated":
        return False

    params = eqn.params
    # In a grouped one the axis that is summed over means two
    # things, and cannot be cut anywhere.
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return False

    # A gradient is known by its shapes: the window that slides
    # over the image is the cotangent, nearly as large as the
    # image, and what comes out is as small as a kernel.
    numbers = params["dimension_numbers"]
    window, out = shape_of(eqn.invars[1]).shape, shape_of(eqn.outvars[0]).shape
    window_size = prod(window[axis] for axis in numbers.rhs_spec[2:])
    out_size = prod(out[axis] for axis in numbers.out_spec[2:])
    return window[numbers.rhs_spec[1]] > _PART and window_size > out_size


def _part_by_part(equation: Equation, env: dict[Var, jax.Array]) -> jax.Array:
    """A convolution as the sum of those of parts of what it sums over."""
    eqn = equation.eqn
    x, window = (env[v] for v in equation.reads)
    numbers = eqn.params["dimension_numbers"]
    # In a gradient what is summed over is the batch: it stands
    # where a plain convolution has its features.
    along_x, along = numbers.lhs_spec[1], numbers.rhs_spec[1]
    length = window.shape[along]

    parts: list[jax.Array] = []
    for start in range(0, length, _PART):
        end = min(start + _PART, length)
        x_part = jax.lax.slice_in_dim(x, start, end, axis=along_x)
        window_part = jax.lax.slice_in_dim(window, start, end, axis=along)
        parts.append(eqn.primitive.bind(x_part, window_part, **eqn.params))
    return tree_sum(parts)


def convolves_on_cpu(function: Callable[..., PyTree], *shapes: PyTree) -> bool:
    """Whether a loop over a function should be run from Python, and not compiled.

    Args:
        function: what each turn of the loop does.
        *shapes: of its arguments.

    Returns:
        `True` if it holds a convolution and the device is a CPU.
    """
    # Within a compiled loop XLA's CPU backend does not use its
    # fast convolution: 20 to 100 times slower was measured.
    # Tracing is skipped where it would not matter.
    if jax.default_backend() != "cpu":
        return False
    return _convolves(jax.make_jaxpr(function)(*shapes).jaxpr)


def _convolves(jaxpr: Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            return True
        if any(_convolves(body) for body in bodies(eqn)):
            return True
    return False
