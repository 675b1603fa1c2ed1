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

from jsplit.trace import bodies


class Macs(NamedTuple):
    """Multiply-accumulates of a function, and of pulling cotangents back through it (reverse mode, nothing recomputed)."""

    forward: int
    backward: int


def macs(jaxpr: Jaxpr) -> int:
    """The multiply-accumulates of one evaluation of `jaxpr`.

    Counted are `dot_general` and `conv_general_dilated`, also inside calls, derivatives of one's own, `remat`, `scan`
    (times its length) and `cond` (its costliest branch). The body of a `while`, whose trips are not known, counts once. A
    convolution counts its padding, as papers do, but not the zeros that a dilation of its input inserts.
    """
    return count(jaxpr.eqns, ()).forward


def count(equations: Iterable[JaxprEqn], trained: Collection[Var]) -> Macs:
    """The multiply-accumulates of `equations`, and of their cotangents back to the variables in `trained`.

    A contraction of two arrays costs its own number once more for each of the two that depends on something in
    `trained`: its cotangent is a contraction of the same sizes.
    """
    return walk(equations, set(trained))


def walk(equations: Iterable[JaxprEqn], trained: set[Var]) -> Macs:
    """`count`, which adds to `trained` what depends on it."""
    forward = backward = 0
    for eqn in equations:
        flags = [isinstance(v, Var) and v in trained for v in eqn.invars]
        kind = eqn.primitive.name
        if kind in CONTRACTIONS:
            own = CONTRACTIONS[kind](eqn)
            found = Macs(own, own * sum(flags))
        else:
            found = inner(eqn, flags)
        forward, backward = forward + found.forward, backward + found.backward
        if any(flags):
            trained.update(v for v in eqn.outvars if isinstance(v, Var))
    return Macs(forward, backward)


def inner(eqn: JaxprEqn, flags: Sequence[bool]) -> Macs:
    """The work in the bodies of an equation, whose last inputs are the inputs of each body."""
    found = []
    for body in bodies(eqn):
        own = list(flags[len(flags) - len(body.invars) :]) if len(body.invars) <= len(flags) else [False] * len(body.invars)
        if eqn.primitive.name == "scan":
            first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
            for _ in range(last - first):  # what a later turn of the loop depends on
                trained = {v for v, flag in zip(body.invars, own, strict=True) if flag}
                walk(body.eqns, trained)
                carry = [
                    a or (isinstance(v, Var) and v in trained) for a, v in zip(own[first:last], body.outvars, strict=False)
                ]
                if carry == own[first:last]:
                    break
                own[first:last] = carry
        found.append(walk(body.eqns, {v for v, flag in zip(body.invars, own, strict=True) if flag}))
    if eqn.primitive.name == "cond":
        found = [max(found, key=sum)]
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    return Macs(*(times * sum(part) for part in zip(*found, strict=True))) if found else Macs(0, 0)


def shape(v: Any) -> tuple[int, ...]:
    return v.aval.shape


def of_dot(eqn: JaxprEqn) -> int:
    (contracting, _), _ = eqn.params["dimension_numbers"]
    return prod(shape(eqn.outvars[0])) * prod(shape(eqn.invars[0])[axis] for axis in contracting)


def of_convolution(eqn: JaxprEqn) -> int:
    """Batch x output features x input features of the kernel x, along each axis in space, pairs of output and kernel."""
    numbers, kernel, out = eqn.params["dimension_numbers"], shape(eqn.invars[1]), shape(eqn.outvars[0])
    pairs = 1
    for i, (o, k) in enumerate(zip(numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)):
        start = np.arange(out[o]) * eqn.params["window_strides"][i] - eqn.params["padding"][i][0]
        reach = np.add.outer(start, np.arange(kernel[k]) * eqn.params["rhs_dilation"][i])
        pairs *= int((reach % eqn.params["lhs_dilation"][i] == 0).sum())
    return out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]] * pairs


CONTRACTIONS = {"dot_general": of_dot, "conv_general_dilated": of_convolution}
