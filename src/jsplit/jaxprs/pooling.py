"""The gradient of max pooling on a CPU, where XLA's own takes 10 to 40 times as long.

Which element of a window is the largest is found tap by tap, as XLA does it:
the first of equals, and a NaN is never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from jsplit.jaxprs.conv_layout import FLOATS, Choice
from jsplit.jaxprs.flat import on_one_device, shape_of

_TAPS = 64
"""Elements of a window that are written out one by one, at most."""


def form_of(eqn: JaxprEqn) -> Choice | None:
    """The form of a gradient of max pooling.

    Args:
        eqn: any equation.

    Returns:
        What computes it of the cotangent and what was pooled; `None` where it is something
        else, or where XLA's own stays.
    """
    if eqn.primitive.name != "select_and_scatter_add":
        return None
    p = eqn.params
    window, strides = p["window_dimensions"], p["window_strides"]
    taps = [*product(*map(range, window))]
    if p["select_prim"].name != "ge" or len(taps) > _TAPS:
        return None
    if not all(map(on_one_device, (*eqn.invars, *eqn.outvars))):
        return None
    if shape_of(eqn.invars[0]).dtype not in FLOATS:
        return None
    padding = p["padding"]

    def form(cotangent: jax.Array, x: jax.Array) -> jax.Array:
        largest = _largest(x, taps, strides, padding, cotangent.shape)
        total = jnp.zeros((), x.dtype)
        for number, at in enumerate(taps):
            part = jnp.where(largest == number, cotangent, 0)
            total = total + _placed(part, at, strides, padding, x.shape)
        return total

    return Choice("element by element", form)


def _largest(
    x: jax.Array,
    taps: Sequence[tuple[int, ...]],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    shape: tuple[int, ...],
) -> jax.Array:
    """The number of the tap with the largest element, of each window."""
    lowest = jnp.full((), -jnp.inf, x.dtype)
    padded = lax.pad(x, lowest, [(lo, max(hi, 0), 0) for lo, hi in padding])
    best = jnp.zeros(shape, x.dtype)
    number = jnp.zeros(shape, jnp.int32)
    for k, at in enumerate(taps):
        limits = [
            a + (n - 1) * s + 1 for a, n, s in zip(at, shape, strides, strict=True)
        ]
        found = lax.slice(padded, at, limits, strides)
        # Not `>`: the first of equals stays. Of a NaN it is false, so what comes after
        # one takes its place, as XLA has it.
        keep = best >= found if k else jnp.zeros(shape, bool)
        best = jnp.where(keep, best, found)
        number = jnp.where(keep, number, k)
    return number


def _placed(
    part: jax.Array,
    at: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    x: tuple[int, ...],
) -> jax.Array:
    """Cotangents where their tap reads x, and zeros elsewhere."""
    config = []
    for size, n, t, s, (lo, _) in zip(x, part.shape, at, strides, padding, strict=True):
        first = t - lo
        config.append((first, size - first - ((n - 1) * s + 1), s - 1))
    return lax.pad(part, jnp.zeros((), part.dtype), config)
