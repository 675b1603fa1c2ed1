"""How long does one convolution or gradient take here, as XLA has it and in jsplit's form?

Each operation runs in both kernels, turn by turn, outside of a loop or as the body of one; the
medians in milliseconds are printed. The table of docs/speed.md is this program's.

    python experiments/bench/convolutions.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jsplit

TURNS = 2  # of a loop

NHWC = ("NHWC", "HWIO", "NHWC")
conv = partial(
    lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=NHWC,
)
conv3 = partial(
    conv, window_strides=(1, 1, 1), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
)


def pooled(x, w):
    del w
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


class Operation(NamedTuple):
    """What is timed: a function of x and w, their shapes, and which of its three parts."""

    name: str
    function: Callable
    x: tuple[int, ...]
    w: tuple[int, ...]
    parts: tuple[str, ...] = ("forward", "weight", "input")
    in_loop: bool = False


USUAL = (64, 32, 32, 32), (3, 3, 32, 32)
OPERATIONS = [
    Operation("3x3, 32 -> 32", conv, *USUAL),
    Operation("the same in a loop", conv, *USUAL, in_loop=True),
    Operation("1x1, 64 -> 128", conv, (64, 32, 32, 64), (1, 1, 64, 128)),
    Operation(
        "four groups, 64 -> 64",
        partial(conv, feature_group_count=4),
        (64, 32, 32, 64),
        (3, 3, 16, 64),
    ),
    Operation(
        "depthwise, 64",
        partial(conv, feature_group_count=64),
        (64, 32, 32, 64),
        (3, 3, 1, 64),
    ),
    Operation(
        "8 clients' own weights",
        jax.vmap(conv),
        (8, 8, 32, 32, 32),
        (8, 3, 3, 32, 32),
    ),
    Operation("3-D, 16 -> 32", conv3, (8, 16, 16, 16, 16), (3, 3, 3, 16, 32)),
    Operation(
        "3x3 by steps of 2, 64 -> 128",
        partial(conv, window_strides=(2, 2)),
        (64, 28, 28, 64),
        (3, 3, 64, 128),
        ("input",),
    ),
    Operation(
        "transposed, 128 -> 64",
        partial(
            lax.conv_transpose, strides=(2, 2), padding="SAME", dimension_numbers=NHWC
        ),
        (64, 14, 14, 128),
        (3, 3, 128, 64),
    ),
    Operation("max pooling, 2x2", pooled, (64, 32, 32, 32), (1,), ("input",)),
]


def part_of(operation: Operation, part: str) -> tuple[Callable, tuple]:
    """One part of an operation, as a function of arrays, and these."""
    f = operation.function
    x, w = jnp.ones(operation.x), jnp.ones(operation.w)
    out = jax.eval_shape(f, x, w)
    g = jnp.ones(out.shape)
    if part == "forward":
        return f, (x, w)
    if part == "weight":
        return lambda x, g: jax.vjp(lambda w: f(x, w), jnp.ones(operation.w))[1](g)[
            0
        ], (x, g)
    return lambda g, x, w: jax.vjp(lambda x: f(x, w), x)[1](g)[0], (g, x, w)


def in_a_loop(function: Callable) -> Callable:
    """The function as the body of a loop, each turn of which reads the one before."""

    def run(first, *rest):
        def turn(_, carry):
            # All of the result, so that no turn computes less than all of it.
            return function(first + carry * 1e-30, *rest).max()

        return lax.fori_loop(0, TURNS, turn, jnp.zeros(()))

    return run


def times(operation: Operation, part: str, rounds: int) -> tuple[float, float]:
    """Milliseconds of XLA's own, and of jsplit's form."""
    function, args = part_of(operation, part)
    if operation.in_loop:
        function = in_a_loop(function)
    runs = [jax.jit(function), jax.jit(jsplit.faster_convolutions(function))]
    for run in runs:
        jax.block_until_ready(run(*args))
    found: list[list[float]] = [[], []]
    for _ in range(rounds):
        for run, taken in zip(runs, found, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run(*args))
            taken.append(1e3 * (time.perf_counter() - start))
    turns = TURNS if operation.in_loop else 1
    own, fast = (statistics.median(taken) / turns for taken in found)
    return own, fast


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of an operation's name")
    options = parser.parse_args(argv)
    print("| operation | part | XLA's own, ms | jsplit's form, ms |")
    print("| --- | --- | --- | --- |")
    for operation in (o for o in OPERATIONS if options.only in o.name):
        for part in operation.parts:
            own, fast = times(operation, part, options.rounds)
            print(f"| {operation.name} | {part} | {own:.1f} | {fast:.1f} |", flush=True)


if __name__ == "__main__":
    main()
