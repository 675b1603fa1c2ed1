"""Which form a convolution has on a CPU: a fixed rule of its shape.

Never by timing: bits may differ neither from run to run nor after a restart. The
numbers at the top were found on two cores, by what `experiments/bench` measures.
"""

from __future__ import annotations

import os
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from jsplit.jaxprs import conv_forms as forms
from jsplit.jaxprs.conv_layout import (
    OWN,
    Choice,
    Compute,
    Convolution,
    Shape,
    with_zeros,
)

_LONG = 128
"""Places of a cotangent from which on a weight gradient is one of parts."""

_WIDE = 110_000
"""Numbers of w from which on XLA divides a convolution over cores by itself."""

_WORK = 8_000_000
"""Products from which on a convolution is divided over cores at all."""

_FEW = 4
"""Features of x, as colours of a picture, up to which patches are put together first."""

_TAPS = 64
"""Taps of a window that are written out one by one, at most."""


def choose(conv: Convolution, x: Shape, w: Shape) -> Choice:
    """The form of a convolution, by its shape alone.

    Args:
        conv: what is computed.
        x: the shape of its first operand.
        w: the shape of its second.

    Returns:
        The form; XLA's own where there is no better one.
    """
    space = conv.space(x, w)
    if 0 in (*x, *w, *space) or len(space) > 3:
        return Choice(OWN, conv.own)
    if conv.batch_groups > 1:
        if x[0] == conv.batch_groups and prod(space) <= _TAPS:
            return Choice("sums over shifts", forms.depthwise_gradient(conv, space))
        return Choice("group by group", _by_batch_group(conv))
    if conv.groups > 1:
        if conv.groups == x[-1] and prod(w[:-2]) <= _TAPS:
            return Choice("sums of shifts", forms.depthwise(conv, space))
        return Choice("group by group", _by_group(conv))
    if len(space) == 3:
        return Choice("planes", _by_planes(conv, space, w))
    if _covers(conv, x, w):
        return Choice("product", forms.as_product(conv))
    # A gradient is known by its shape: the window that slides over x is the cotangent,
    # and what comes out is as small as a kernel.
    places = prod(w[:-2])
    if places > prod(space):
        if max(conv.x_dilation) > 1 and {*conv.strides, *conv.w_dilation} == {1}:
            return Choice("phases", forms.phases(conv, space, choose))
        if places >= _LONG and x[-1] >= 2 * forms.PARTS:
            return Choice(f"sum of {forms.PARTS} parts", forms.in_parts(conv))
        return Choice(OWN, conv.own)
    # Unless they would need more memory than what is read and written.
    results = x[0] * prod(space)
    fit = results * prod(w[:-1]) <= prod(x) + results * w[-1]
    if x[-1] <= _FEW and 1 < places <= _TAPS and fit:
        return Choice("patches and a product", forms.of_patches(conv, space))
    # XLA runs a convolution with few weights on one core, and two of them on two.
    count = min(cores(), x[0])
    if count > 1 and prod(w) < _WIDE and prod(w) * results >= _WORK:
        return Choice("batch divided over cores", forms.side_by_side(conv, count))
    return Choice(OWN, conv.own)


def cores() -> int:
    """How many cores this process may use, and at most 8."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        found = os.cpu_count() or 1
    return min(found, 8)


def _covers(conv: Convolution, x: Shape, w: Shape) -> bool:
    """Whether the window reads all of x in one place, without zeros in between."""
    return all(
        pads == (0, 0) and xd == 1 and (size - 1) * wd + 1 == a
        for pads, xd, wd, size, a in zip(
            conv.padding, conv.x_dilation, conv.w_dilation, w, x[1:-1], strict=False
        )
    )


def _by_group(conv: Convolution) -> Compute:
    """Groups of features one after the other, each a convolution of its own."""
    one = conv._replace(groups=1)

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        found = _each(one, _leading(x, -1, conv.groups), _leading(w, -1, conv.groups))
        return _joined(found, -1)

    return compute


def _by_batch_group(conv: Convolution) -> Compute:
    """Groups of the batch one after the other, each with outputs of its own."""
    one = conv._replace(batch_groups=1)
    count = conv.batch_groups

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        return _joined(_each(one, _leading(x, 0, count), _leading(w, -1, count)), -1)

    return compute


def _each(one: Convolution, xs: jax.Array, ws: jax.Array) -> jax.Array:
    """The convolutions of a row of operands."""
    chosen = choose(one, xs.shape[1:], ws.shape[1:])
    return lax.map(lambda pair: chosen.compute(*pair), (xs, ws))


def _leading(x: jax.Array, axis: int, count: int) -> jax.Array:
    """An axis divided into `count` parts, which come first."""
    axis %= x.ndim
    shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _joined(x: jax.Array, axis: int) -> jax.Array:
    """The inverse of `_leading`."""
    axis %= x.ndim - 1
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _by_planes(conv: Convolution, space: Shape, w: Shape) -> Compute:
    """Three axes of space as two: what the first one reads stands beside the features."""
    flat = conv._replace(
        strides=conv.strides[1:],
        padding=conv.padding[1:],
        x_dilation=conv.x_dilation[1:],
        w_dilation=conv.w_dilation[1:],
    )
    first = conv._replace(
        padding=(conv.padding[0], *[(0, 0)] * 2),
        x_dilation=(conv.x_dilation[0], 1, 1),
    )
    depth, taps = space[0], w[0]
    stride, dilation = conv.strides[0], conv.w_dilation[0]

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        x = with_zeros(first, x)
        batch, _, *plane, features = x.shape
        # [batch, depth, *plane, taps, features], put together along the shorter axis.
        if taps <= depth:
            end = (depth - 1) * stride + 1
            read = [
                lax.slice_in_dim(x, t * dilation, t * dilation + end, stride, 1)
                for t in range(taps)
            ]
            x = jnp.stack(read, -2)
        else:
            end = (taps - 1) * dilation + 1
            read = [
                lax.slice_in_dim(x, d * stride, d * stride + end, dilation, 1)
                for d in range(depth)
            ]
            x = jnp.moveaxis(jnp.stack(read, 1), 2, -2)
        x = x.reshape(batch * depth, *plane, taps * features)
        w = jnp.moveaxis(w, 0, 2).reshape(*w.shape[1:3], taps * features, -1)
        y = choose(flat, x.shape, w.shape).compute(x, w)
        return y.reshape(batch, *space, -1)

    return compute
