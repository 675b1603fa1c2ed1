"""How the loops of a round run: compiled into one program, or in Python over one compiled step.

This is the only file that decides it. The numbers are the same either way;
what differs is how fast XLA runs a convolution on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jsplit.core.base import PyTree
from jsplit.core.checks import one_of
from jsplit.jaxprs.convolutions import convolves_on_cpu, in_parts

_IN_CACHE = 8
"""Clients that run at once on a CPU: their states stay in its cache."""


class Vmap(Protocol):
    """Runs a function once for each of several, as `jax.vmap` does."""

    def __call__(
        self, fun: Callable[..., PyTree], in_axes: tuple[int | None, ...]
    ) -> Callable[..., PyTree]: ...


class Backend(NamedTuple):
    """One way to run loops.

    Attributes:
        scan: `scan(body, carry, xs) -> (carry, ys)`, as `jax.lax.scan`.
        fori_loop: `fori_loop(count, body, carry) -> carry` with `body(i,
            carry)`, as `jax.lax.fori_loop` from 0; `count` may be known
            only when it runs.
        vmap: runs a function once for each of several, as `jax.vmap`.
        jit_round: compiles the loop as a whole, or leaves it as it is.
        jit_step: compiles each step of a loop, or leaves it as it is.
        one_program: whether a round is one program, and several rounds may
            be.
    """

    scan: Callable[..., tuple[PyTree, PyTree]]
    fori_loop: Callable[..., PyTree]
    vmap: Vmap
    jit_round: Callable[..., Callable]
    jit_step: Callable[..., Callable]
    one_program: bool

    def shared_weights_vmap(self, own: bool) -> Vmap:
        """Return what runs clients whose weights are their `own`, or those of all."""
        # Only convolutions with weights of each client's own are slow as
        # one: with shared weights, a batch of batches is one larger batch.
        return self.vmap if own else jax.vmap

    def calls_each_client(self, mesh: Mesh | None) -> bool:
        """Return whether clients that step together are called one after the other."""
        # Over a mesh they run at the same time, which is what the mesh is
        # for.
        return mesh is None and not self.one_program

    def group_size(self, chunk: int | None, count: int, devices: int) -> int:
        """Return how many of `count` independent clients run at once, on all devices together.

        Args:
            chunk: how many on each device, if the user says so.
            count: how many clients there are.
            devices: over how many devices they are spread.

        Returns:
            A multiple of `devices`.
        """
        each = -(-count // devices)
        if chunk is None:
            chunk = each
            if jax.default_backend() == "cpu":
                # One by one where a step convolves: a convolution of
                # several clients with weights of their own is slow there.
                chunk = _IN_CACHE if self.one_program else 1
        return devices * min(chunk, each)


def choose_backend(loop: str, step: Callable[..., PyTree], *shapes: PyTree) -> Backend:
    """Choose how loops over `step` run: as the user says, or as fits what the step computes.

    XLA runs a convolution inside a compiled loop 20 to 100 times slower on
    a CPU (jax-ml/jax#12868), and as slowly one of several clients with
    weights of their own. So there, and only there, Python loops over one
    compiled step. Everywhere else one program is faster.

    Args:
        loop: `"auto"`, `"compiled"` or `"python"`.
        step: what a loop repeats; traced, never run, and only if `loop` is
            `"auto"`.
        *shapes: shapes and dtypes of its arguments.

    Returns:
        The way to run loops.
    """
    if loop == "auto":
        loop = "python" if convolves_on_cpu(step, *shapes) else "compiled"
    return _BACKENDS[loop]


def check_loop(loop: str) -> None:
    """Refuse a `loop` that there is not."""
    one_of("loop", loop, ("auto", *_BACKENDS))


def jit_large_batch(function: Callable, donate: tuple[int, ...]) -> Callable:
    """Compile what runs once on the batch of all clients together.

    XLA's convolution for a CPU takes 2 to 8 times as long for each example
    where it sums over more than some two hundred, as a weight gradient
    does over the batch of all clients; so it is a sum over parts.
    """
    return jax.jit(in_parts(function), donate_argnums=donate)


def one_after_another(
    fun: Callable[..., PyTree], in_axes: tuple[int | None, ...]
) -> Callable[..., PyTree]:
    """Return `jax.vmap(fun, in_axes)` as a row of calls."""

    def run(*args: PyTree) -> PyTree:
        rows = []
        for i in range(count_mapped(args, in_axes)):
            row = [
                a if axis is None else _row(a, i)
                for a, axis in zip(args, in_axes, strict=True)
            ]
            rows.append(fun(*row))
        return _stack(rows)

    return run


def count_mapped(args: tuple, in_axes: tuple[int | None, ...]) -> int:
    """Return the length of the axis that is mapped over."""
    for a, axis in zip(args, in_axes, strict=True):
        # An argument without arrays, such as the state of a model without
        # BatchNorm, does not say how many there are.
        if axis == 0 and jax.tree.leaves(a):
            return jax.tree.leaves(a)[0].shape[0]
    raise ValueError("no argument has an array with a leading axis to map over.")


def _row(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda x: x[i], tree)


def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _no_jit(function: Callable, **_: object) -> Callable:
    """Return the function as it is, in the place of `jax.jit`."""
    return function


def _fori_loop(count: jax.Array | int, body: Callable, carry: PyTree) -> PyTree:
    # A traced `count` makes this a `while` loop, so rounds of one shape
    # share a program whatever number of steps clients take.
    return jax.lax.fori_loop(0, count, body, carry)


def _scan_in_python(body: Callable, carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    ys = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, y = body(carry, _row(xs, i))
        ys.append(y)
    return carry, _stack(ys)


def _loop_in_python(count: jax.Array | int, body: Callable, carry: PyTree) -> PyTree:
    for i in range(int(count)):
        carry = body(i, carry)
    return carry


_BACKENDS = {
    "compiled": Backend(jax.lax.scan, _fori_loop, jax.vmap, jax.jit, _no_jit, True),
    "python": Backend(
        _scan_in_python, _loop_in_python, one_after_another, _no_jit, jax.jit, False
    ),
}
