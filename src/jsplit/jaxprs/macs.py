"""Multiply-accumulates of a program: the arithmetic of matrix products and convolutions.

They are counted from a jaxpr, equation by equation. One
multiply-accumulate is one product added to a sum. Papers on split
learning count these; XLA counts two FLOPs for each, and
elementwise work besides, so the two conventions differ by a
factor of two and a little.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Var

from jsplit.jaxprs.flat import Atom, bodies, shape_of


class _Macs(NamedTuple):
    """Multiply-accumulates of a function, and of pulling cotangents back through it.

    The latter is reverse mode, with nothing recomputed.
    """

    forward: int
    backward: int


def macs(jaxpr: Jaxpr, *, once: bool = False) -> int:
    """Count the multiply-accumulates of one evaluation of a program.

    Counted are `dot_general` and `conv_general_dilated`, also
    inside calls, derivatives of one's own, `remat`, `scan` (times
    its length) and `cond` (its costliest branch). The body of a
    `while`, whose trips are not known, counts once. A convolution
    counts its padding, as papers do, but not the zeros that a
    dilation of its input inserts.

    Args:
        jaxpr: the program.
        once: whether the body of every loop counts once, as XLA's
            own count does.

    Returns:
        Their number.
    """
    return _walk(jaxpr.eqns, set(), once).forward


def count(equations: Iterable[JaxprEqn], trained: Collection[Var]) -> _Macs:
    """Count the multiply-accumulates of equations, forward and back.

    A contraction of two arrays costs one more for each of the two
    that depends on something in `trained`: the cotangent is a
    contraction of the same sizes (of a convolution's input, with
    the padding of its transpose).

    Args:
        equations: in the order in which they run.
        trained: the variables to which cotangents are pulled
            back.

    Returns:
        Both numbers.
    """
    return _walk(equations, set(trained))


def _walk(
    equations: Iterable[JaxprEqn], trained: set[Var], once: bool = False
) -> _Macs:
    """Count as `count` does, and add to `trained` what depends on it."""
    forward = backward = 0
    for eqn in equations:
        depends = [isinstance(v, Var) and v in trained for v in eqn.invars]
        contraction = _CONTRACTIONS.get(eqn.primitive.name)
        if contraction is None:
            found = _inner(eqn, depends, once)
        else:
            own, *back = contraction(eqn)
            pulled = [n for n, needed in zip(back, depends, strict=True) if needed]
            found = _Macs(own, sum(pulled))

        forward += found.forward
        backward += found.backward
        if any(depends):
            trained.update(v for v in eqn.outvars if isinstance(v, Var))
    return _Macs(forward, backward)


def _inner(eqn: JaxprEqn, depends: Sequence[bool], once: bool) -> _Macs:
    """The work in the bodies of an equation."""
    kind = eqn.primitive.name
    found: list[_Macs] = []
    for body in bodies(eqn):
        own = _depending_inputs(body, depends)
        if kind == "scan":
            _spread_over_turns(eqn, body, own)
        trained = {v for v, needed in zip(body.invars, own, strict=True) if needed}
        found.append(_walk(body.eqns, trained, once))

    if not found:
        return _Macs(0, 0)
    # Of branches one runs, and which is not known: the costliest
    # bounds it.
    if kind == "cond":
        found = [max(found, key=sum)]

    times = eqn.params["length"] if kind == "scan" and not once else 1
    forward = sum(x.forward for x in found)
    backward = sum(x.backward for x in found)
    return _Macs(times * forward, times * backward)


def _depending_inputs(body: Jaxpr, depends: Sequence[bool]) -> list[bool]:
    """Which inputs of a body depend on what is trained."""
    # The inputs of a body are the last of its equation's: before
    # them come the index of a `cond`, or what belongs to other
    # bodies. One that has more inputs than its equation is not
    # understood, and taken to depend on nothing.
    first = len(depends) - len(body.invars)
    return [*depends[first:]] if first >= 0 else [False] * len(body.invars)


def _spread_over_turns(eqn: JaxprEqn, body: Jaxpr, depends: list[bool]) -> None:
    """Add to `depends` what later turns of a scan depend on through its carry."""
    first, last = carried(eqn, body)
    # What one turn carries on may depend on something trained
    # where it began with nothing: as often as there are values
    # carried, one more can be reached.
    for _ in range(last - first):
        trained = {v for v, needed in zip(body.invars, depends, strict=True) if needed}
        _walk(body.eqns, trained)
        before = depends[first:last]
        after = [
            already or (isinstance(v, Var) and v in trained)
            for already, v in zip(before, body.outvars, strict=False)
        ]
        if after == before:
            break
        depends[first:last] = after


def carried(eqn: JaxprEqn, body: Jaxpr) -> tuple[int, int]:
    """Which inputs of a scan are carried on: those after the constants."""
    # By shapes and not by the equation's own numbers, whose names
    # have changed between versions of JAX: what is sliced turn by
    # turn has one axis less in the body.
    last = _of_same_rank(eqn.invars, body.invars)
    return last - _of_same_rank(eqn.outvars, body.outvars), last


def _of_same_rank(outer: Sequence[Atom], inner: Sequence[Atom]) -> int:
    pairs = zip(outer, inner, strict=True)
    return sum(len(_shape(a)) == len(_shape(b)) for a, b in pairs)


def _shape(v: Atom) -> tuple[int, ...]:
    return shape_of(v).shape


def _of_dot(eqn: JaxprEqn) -> tuple[int, int, int]:
    (contracting, _), _ = eqn.params["dimension_numbers"]
    left, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    own = prod(out) * prod(left[axis] for axis in contracting)
    # Each cotangent contracts over another of the three groups of
    # axes: the product of all three is the same.
    return own, own, own


def _of_convolution(eqn: JaxprEqn) -> tuple[int, int, int]:
    """Batch x output features x input features, times pairs along each axis in space.

    These are pairs of output and kernel, and for the cotangent of
    the input, pairs of input and kernel.
    """
    numbers = eqn.params["dimension_numbers"]
    kernel, out = _shape(eqn.invars[1]), _shape(eqn.outvars[0])
    pairs = transposed = 1
    for axis in range(len(numbers.rhs_spec) - 2):
        found = _pairs_along(eqn, axis)
        pairs *= found[0]
        transposed *= found[1]

    # The kernel's own input features, which are fewer where
    # features come in groups.
    features = out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    rest = out[numbers.out_spec[0]] * features
    return rest * pairs, rest * transposed, rest * pairs


def _pairs_along(eqn: JaxprEqn, axis: int) -> tuple[int, int]:
    """Products along one axis in space: of output and kernel, of input and kernel."""
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    image, kernel = (_shape(v) for v in eqn.invars)
    out = _shape(eqn.outvars[0])
    stride, dilation = params["window_strides"][axis], params["lhs_dilation"][axis]
    padding = params["padding"][axis][0]

    taps = np.arange(kernel[numbers.rhs_spec[2 + axis]])
    places = taps * params["rhs_dilation"][axis] - padding
    outputs = np.arange(out[numbers.out_spec[2 + axis]]) * stride
    inputs = np.arange(image[numbers.lhs_spec[2 + axis]]) * dilation

    # Between the entries of a dilated input lie zeros, which
    # nobody multiplies by; padding lies outside, and counts.
    forward = np.add.outer(outputs, places) % dilation == 0
    back = np.subtract.outer(inputs, places) % stride == 0
    return int(forward.sum()), int(back.sum())


# By primitive: the multiply-accumulates of it, and of the
# cotangents of its two inputs.
_CONTRACTIONS: dict[str, Callable[[JaxprEqn], tuple[int, int, int]]] = {
    "dot_general": _of_dot,
    "conv_general_dilated": _of_convolution,
}
