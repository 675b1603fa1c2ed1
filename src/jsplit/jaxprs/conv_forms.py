"""Forms of a convolution, each equal to XLA's own and in places much faster on a CPU.

Here is what they compute; when each is taken is in `conv_choice`. A new form is a
function of a `Convolution` that gives a function of x and w, and a line there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from jsplit.jaxprs.conv_layout import (
    Choice,
    Compute,
    Convolution,
    Shape,
    divided,
    window,
    with_zeros,
)

PARTS = 4
"""Parts that a weight gradient is the sum of."""


def side_by_side(conv: Convolution, count: int) -> Compute:
    """Parts of the batch, each a convolution that may run beside the others."""

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        parts = [conv.own(part, w) for part in divided(x, count)]
        return jnp.concatenate(parts)

    return compute


def of_patches(conv: Convolution, space: Shape) -> Compute:
    """What each place of the window reads, side by side, times all of w."""

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        padded = with_zeros(conv, x)
        taps = product(*map(range, w.shape[:-2]))
        patches = [window(conv, padded, at, space) for at in taps]
        rows = jnp.concatenate(patches, -1).reshape(-1, prod(w.shape[:-1]))
        found = rows @ w.reshape(-1, w.shape[-1])
        return found.reshape(x.shape[0], *space, -1)

    return compute


def in_parts(conv: Convolution) -> Compute:
    """A sum over parts of the features, which are examples where this is a gradient."""

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        # Examples first, as they lay before they were called features: XLA finds that
        # it need not move them, and brings each part into order where it is used.
        xs = divided(jnp.swapaxes(x, 0, -1), PARTS)
        ws = divided(jnp.moveaxis(w, -2, 0), PARTS)
        parts = [
            conv.own(jnp.swapaxes(x, 0, -1), jnp.moveaxis(w, 0, -2))
            for x, w in zip(xs, ws, strict=True)
        ]
        # By twos: a row of sums would wait for each part in turn.
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return compute


def depthwise(conv: Convolution, space: Shape) -> Compute:
    """Each feature by itself: elements of shifted x times numbers of w, added up."""

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        padded, times = with_zeros(conv, x), w.shape[-1] // x.shape[-1]
        total = None
        for at in product(*map(range, w.shape[:-2])):
            part = window(conv, padded, at, space)[..., None]
            part = part * w[at].reshape(x.shape[-1], times)
            total = part if total is None else total + part
        assert total is not None
        return total.reshape(x.shape[0], *space, -1)

    return compute


def depthwise_gradient(conv: Convolution, space: Shape) -> Compute:
    """The weight gradient of `depthwise`: x is [features, *space, batch]."""

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        x = jnp.swapaxes(with_zeros(conv, x), 0, -1)
        w = jnp.moveaxis(w, -2, 0)
        times, inner = w.shape[-1] // x.shape[-1], w.shape[1:-1]
        taps = [*product(*map(range, space))]

        # Example by example, so that one stays in the cache for all taps.
        def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]):
            one, g = pair
            g = g.reshape(*inner, -1, times)
            found: list[jax.Array] = []
            for at in taps:
                starts = [t * s for t, s in zip(at, conv.strides, strict=True)]
                limits = [
                    a + (size - 1) * d + 1
                    for a, size, d in zip(starts, inner, conv.w_dilation, strict=True)
                ]
                read = lax.slice(
                    one,
                    (*starts, 0),
                    (*limits, one.shape[-1]),
                    (*conv.w_dilation, 1),
                )
                part = read[..., None] * g
                # Axis by axis: XLA divides a sum over several at once badly.
                for _ in inner:
                    part = part.sum(0)
                found.append(part)
            return total + jnp.stack(found), None

        zero = jnp.zeros((len(taps), x.shape[-1], times), x.dtype)
        total, _ = lax.scan(add, zero, (x, w))
        return total.reshape(1, *space, -1)

    return compute


def as_product(conv: Convolution) -> Compute:
    """One product of matrices, as a sum of products where what is summed over is long."""

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        strides = (1, *conv.w_dilation, 1)
        x = lax.slice(x, (0,) * x.ndim, x.shape, strides)
        rank, features = len(conv.strides), x.shape[-1]
        result = x.shape[0] * w.shape[-1]
        space = "xyz"[:rank]
        # Summed over all at once, few results are not divided over the cores. A product
        # for each feature, which is an example where this is a gradient, is; it pays
        # unless they are more than what is read.
        each = features * result <= x.size + w.size
        to = "fbo" if each else "bo"
        found = jnp.einsum(f"b{space}f,{space}fo->{to}", x, w)
        found = found.sum(0) if each else found
        return found.reshape(x.shape[0], *[1] * rank, -1)

    return compute


def phases(
    conv: Convolution,
    space: Shape,
    choose: Callable[[Convolution, Shape, Shape], Choice],
) -> Compute:
    """Results that read the same zeros between elements of x, each kind a convolution.

    Such zeros are there in the weight gradient of a transposed convolution, and in
    that of the gradient of a stride. With a window as large XLA multiplies by them: of
    two axes with a dilation of 2 these are three products in four.
    """
    dilation = conv.x_dilation
    # By axis, the result at d * q + r reads taps t0, t0 + d, ... and no zero between.
    first = [
        [(lo - r) % d for r in range(d)]
        for (lo, _), d in zip(conv.padding, dilation, strict=True)
    ]
    sizes = [-(-size // d) for size, d in zip(space, dilation, strict=True)]

    def one(x: jax.Array, w: jax.Array, at: Shape) -> jax.Array:
        starts = [of[r] for of, r in zip(first, at, strict=True)]
        part = w[
            tuple(slice(t, None, d) for t, d in zip(starts, dilation, strict=True))
        ]
        if 0 in part.shape:  # a window shorter than the dilation
            return jnp.zeros((x.shape[0], *sizes, w.shape[-1]), x.dtype)
        before = [
            (lo - r - t) // d
            for (lo, _), r, t, d in zip(conv.padding, at, starts, dilation, strict=True)
        ]
        # All of one size, to be put together; what is too much is cut off at the end.
        after = [
            size + taps - 1 - lo - length
            for size, taps, lo, length in zip(
                sizes, part.shape, before, x.shape[1:], strict=False
            )
        ]
        # Cut by us: with one end cut and the other padded XLA's result is wrong on a
        # CPU (padding (-1, 1) of a window of 3).
        read, pads = zip(*map(_cut, x.shape[1:], before, after), strict=True)
        x = x[:, *read]
        own = conv._replace(padding=pads, x_dilation=(1,) * len(dilation))
        return choose(own, x.shape, part.shape).compute(x, part)

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        parts = [one(x, w, at) for at in product(*map(range, dilation))]
        found = jnp.stack(parts).reshape(*dilation, *parts[0].shape)
        rank = len(dilation)
        # [*dilation, batch, *sizes, outputs] to [batch, size, dilation, ..., outputs].
        order = [
            rank,
            *(i for n in range(rank) for i in (rank + 1 + n, n)),
            2 * rank + 1,
        ]
        whole = [size * d for size, d in zip(sizes, dilation, strict=True)]
        found = jnp.transpose(found, order).reshape(x.shape[0], *whole, w.shape[-1])
        return found[:, *(slice(size) for size in space)]

    return compute


def _cut(length: int, before: int, after: int) -> tuple[slice, tuple[int, int]]:
    """Padding that may be negative as what is read of an axis, and zeros around that."""
    whole = length + before + after
    start = min(max(0, -before), length)
    stop = max(start, length + min(0, after))
    zeros = min(max(0, before), whole)
    return slice(start, stop), (zeros, whole - zeros - (stop - start))
