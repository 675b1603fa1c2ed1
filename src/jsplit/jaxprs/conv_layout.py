"""What a convolution computes, in the one layout that all forms are written for.

x is [batch, *space, features], w is [*space, features, outputs]. In a loop this is the
only one with which XLA is fast on a CPU; outside all are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

OWN = "XLA's own"
"""What stands for a form where there is none better."""

FLOATS = (np.dtype("float32"), np.dtype("float64"))
"""The dtypes that have forms: in narrower ones sums would be rounded otherwise than XLA's."""

Shape = tuple[int, ...]
Compute = Callable[[jax.Array, jax.Array], jax.Array]


class Convolution(NamedTuple):
    """What a convolution computes, but for its operands.

    Attributes:
        strides: by axis of space, of the window.
        padding: by axis of space, zeros before and after; negative ones cut off.
        x_dilation: by axis of space, one more than the zeros between elements of x.
        w_dilation: the same of w.
        groups: into how many parts the features of x are divided.
        batch_groups: into how many parts the batch is divided.
        precision: as `jax.lax.conv_general_dilated` takes it.
        dtype: of the result, if it is said.
    """

    strides: Shape
    padding: tuple[tuple[int, int], ...]
    x_dilation: Shape
    w_dilation: Shape
    groups: int
    batch_groups: int
    precision: object
    dtype: object

    def own(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """XLA's own convolution."""
        rank = len(self.strides)
        inner = tuple(range(1, rank + 1))
        numbers = lax.ConvDimensionNumbers(
            (0, rank + 1, *inner), (rank + 1, rank, *range(rank)), (0, rank + 1, *inner)
        )
        return lax.conv_general_dilated(
            x,
            w,
            self.strides,
            self.padding,
            self.x_dilation,
            self.w_dilation,
            numbers,
            self.groups,
            self.batch_groups,
            self.precision,  # type: ignore[arg-type]
            self.dtype,  # type: ignore[arg-type]
        )

    def space(self, x: Shape, w: Shape) -> Shape:
        """The sizes of the result's axes of space, of the shapes of its operands."""
        found: list[int] = []
        for i, (before, after) in enumerate(self.padding):
            whole = (x[i + 1] - 1) * self.x_dilation[i] + 1 + before + after
            reach = (w[i] - 1) * self.w_dilation[i] + 1
            found.append(max(0, (whole - reach) // self.strides[i] + 1))
        return tuple(found)


class Choice(NamedTuple):
    """A form: what it is called, and what computes it."""

    name: str
    compute: Compute


def with_zeros(conv: Convolution, x: jax.Array) -> jax.Array:
    """x with the zeros that a convolution puts around and between its elements."""
    inner = [
        (lo, hi, dilation - 1)
        for (lo, hi), dilation in zip(conv.padding, conv.x_dilation, strict=True)
    ]
    none = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [none, *inner, none])


def window(conv: Convolution, x: jax.Array, at: Shape, space: Shape) -> jax.Array:
    """What one tap of the window reads of the padded x: [batch, *space, features]."""
    starts = [t * d for t, d in zip(at, conv.w_dilation, strict=True)]
    limits = [
        a + (size - 1) * s + 1
        for a, size, s in zip(starts, space, conv.strides, strict=True)
    ]
    return lax.slice(
        x,
        (0, *starts, 0),
        (x.shape[0], *limits, x.shape[-1]),
        (1, *conv.strides, 1),
    )


def divided(x: jax.Array, count: int) -> list[jax.Array]:
    """An array in parts along its first axis, as equal as may be."""
    ends = [len(x) * i // count for i in range(count + 1)]
    return [x[a:b] for a, b in pairwise(ends)]
