"""How a loop runs: compiled into one program, or in Python over one compiled step. The numbers are the same.

XLA runs convolutions inside loops 20 to 100 times slower on a CPU (jax-ml/jax#12868); everywhere else one program is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree


class Loops(NamedTuple):
    """One way to run loops.

    Attributes:
        over: `over(body, carry, xs) -> (carry, ys)`, as `jax.lax.scan`.
        times: `times(count, body, carry) -> carry` with `body(i, carry)`; `count` may be known only when it runs.
        each: `each(function, in_axes)` runs a function once for each of several, as `jax.vmap`.
        whole: what the loop as a whole is compiled by, and `step` what each of its steps is.
    """

    over: Callable[..., tuple[PyTree, PyTree]]
    times: Callable[..., PyTree]
    each: Callable[..., Callable]
    whole: Callable[..., Callable]
    step: Callable[..., Callable]


def _plain(function: Callable, **_: Any) -> Callable:
    return function


def _times_compiled(count: Any, body: Callable, carry: PyTree) -> PyTree:
    return jax.lax.fori_loop(0, count, body, carry)


def _over_python(body: Callable, carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    ys = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def _times_python(count: Any, body: Callable, carry: PyTree) -> PyTree:
    for i in range(int(count)):
        carry = body(i, carry)
    return carry


def unrolled(function: Callable, in_axes: tuple) -> Callable:
    """`jax.vmap` as a row of calls: convolutions with weights of their own are slow as one on a CPU."""

    def run(*args):
        def row(i):
            return [
                a if axis is None else jax.tree.map(lambda x: x[i], a)
                for a, axis in zip(args, in_axes, strict=True)
            ]

        count = next(
            x.shape[0]
            for a, axis in zip(args, in_axes, strict=True)
            if axis == 0
            for x in jax.tree.leaves(a)
        )
        return jax.tree.map(
            lambda *x: jnp.stack(x), *[function(*row(i)) for i in range(count)]
        )

    return run


LOOPS = {
    "compiled": Loops(jax.lax.scan, _times_compiled, jax.vmap, jax.jit, _plain),
    "python": Loops(_over_python, _times_python, unrolled, _plain, jax.jit),
}
_CHOICES = ("auto", *LOOPS)


def check_loop(loop: str) -> None:
    if loop not in _CHOICES:
        raise ValueError(f"`loop` must be one of {', '.join(_CHOICES)}, got {loop!r}.")
