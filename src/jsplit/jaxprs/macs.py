"""Multiply-accumulates, counted from a jaxpr equation by equation: the arithmetic of matrix products and convolutions.

One multiply-accumulate is one product added to a sum. Papers on split learning count these; XLA counts two
FLOPs for each, and elementwise work besides, so the two conventions differ by a factor of two and a little.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Var

from jsplit.jaxprs.flat import bodies


class _Macs(NamedTuple):
    """Multiply-accumulates of a function, and of pulling cotangents back through it (reverse mode, nothing recomputed)."""

    forward: int
    backward: int


def macs(jaxpr: Jaxpr, *, once: bool = False) -> int:
    """The multiply-accumulates of one evaluation of `jaxpr`; with `once`, the body of every loop counts once.

    Counted are `dot_general` and `conv_general_dilated`, also inside calls, derivatives of one's own, `remat`, `scan`
    (times its length) and `cond` (its costliest branch). The body of a `while`, whose trips are not known, counts once. A
    convolution counts its padding, as papers do, but not the zeros that a dilation of its input inserts.
    """
    return _walk(jaxpr.eqns, set(), once).forward


def count(equations: Iterable[JaxprEqn], trained: Collection[Var]) -> _Macs:
    """The multiply-accumulates of `equations`, and of their cotangents back to the variables in `trained`.

    A contraction of two arrays costs one more for each of the two that depends on something in `trained`: the
    cotangent is a contraction of the same sizes (of a convolution's input, with the padding of its transpose).
    """
    return _walk(equations, set(trained))


def _walk(
    equations: Iterable[JaxprEqn], trained: set[Var], once: bool = False
) -> _Macs:
    """`count`, which adds to `trained` what depends on it."""
    forward = backward = 0
    for eqn in equations:
        flags = [isinstance(v, Var) and v in trained for v in eqn.invars]
        kind = eqn.primitive.name
        if kind in _CONTRACTIONS:
            own, *back = _CONTRACTIONS[kind](eqn)
            found = _Macs(
                own, sum(n for n, flag in zip(back, flags, strict=True) if flag)
            )
        else:
            found = _inner(eqn, flags, once)
        forward, backward = forward + found.forward, backward + found.backward
        if any(flags):
            trained.update(v for v in eqn.outvars if isinstance(v, Var))
    return _Macs(forward, backward)


def _inner(eqn: JaxprEqn, flags: Sequence[bool], once: bool) -> _Macs:
    """The work in the bodies of an equation, whose last inputs are the inputs of each body."""
    found = []
    for body in bodies(eqn):
        own = (
            list(flags[len(flags) - len(body.invars) :])
            if len(body.invars) <= len(flags)
            else [False] * len(body.invars)
        )
        if eqn.primitive.name == "scan":
            first, last = _carried(eqn, body)
            for _ in range(last - first):  # what a later turn of the loop depends on
                trained = {v for v, flag in zip(body.invars, own, strict=True) if flag}
                _walk(body.eqns, trained)
                carry = [
                    a or (isinstance(v, Var) and v in trained)
                    for a, v in zip(own[first:last], body.outvars, strict=False)
                ]
                if carry == own[first:last]:
                    break
                own[first:last] = carry
        found.append(
            _walk(
                body.eqns,
                {v for v, flag in zip(body.invars, own, strict=True) if flag},
                once,
            )
        )
    if eqn.primitive.name == "cond":
        found = [max(found, key=sum)]
    times = eqn.params["length"] if eqn.primitive.name == "scan" and not once else 1
    return (
        _Macs(*(times * sum(part) for part in zip(*found, strict=True)))
        if found
        else _Macs(0, 0)
    )


def _carried(eqn: JaxprEqn, body: Jaxpr) -> tuple[int, int]:
    """Which inputs of a scan are carried on: those after the constants, before those with a turn on their first axis."""

    def same(outer: Sequence, inner: Sequence) -> int:
        return sum(
            len(shape(a)) == len(shape(b)) for a, b in zip(outer, inner, strict=True)
        )

    last = same(eqn.invars, body.invars)
    return last - same(eqn.outvars, body.outvars), last


def shape(v: Any) -> tuple[int, ...]:
    return v.aval.shape


def _of_dot(eqn: JaxprEqn) -> tuple[int, int, int]:
    (contracting, _), _ = eqn.params["dimension_numbers"]
    own = prod(shape(eqn.outvars[0])) * prod(
        shape(eqn.invars[0])[axis] for axis in contracting
    )
    return own, own, own


def _of_convolution(eqn: JaxprEqn) -> tuple[int, int, int]:
    """Batch x output features x input features of the kernel x, along each axis in space, pairs of output and kernel.

    For the cotangent of the input it is pairs of input and kernel.
    """
    numbers, arrays = eqn.params["dimension_numbers"], (*eqn.invars, *eqn.outvars)
    image, kernel, out = map(shape, arrays)
    pairs = transposed = 1
    for n, (i, k, o) in enumerate(
        zip(
            numbers.lhs_spec[2:],
            numbers.rhs_spec[2:],
            numbers.out_spec[2:],
            strict=True,
        )
    ):
        stride, dilation = (
            eqn.params["window_strides"][n],
            eqn.params["lhs_dilation"][n],
        )
        places = (
            np.arange(kernel[k]) * eqn.params["rhs_dilation"][n]
            - eqn.params["padding"][n][0]
        )
        pairs *= int(
            (np.add.outer(np.arange(out[o]) * stride, places) % dilation == 0).sum()
        )
        transposed *= int(
            (
                np.subtract.outer(np.arange(image[i]) * dilation, places) % stride == 0
            ).sum()
        )
    rest = (
        out[numbers.out_spec[0]]
        * out[numbers.out_spec[1]]
        * kernel[numbers.rhs_spec[1]]
    )
    return rest * pairs, rest * transposed, rest * pairs


_CONTRACTIONS = {"dot_general": _of_dot, "conv_general_dilated": _of_convolution}
"""By primitive: the multiply-accumulates of it, and of the cotangents of its two inputs."""
