"""`quantize`: a link that sends few bits for each number, unbiased.

Levels of two to eight bits are packed; numbers along an axis have one scale.
"""

from __future__ import annotations

from operator import index
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import shown
from jsplit.core.finite import at_least_float32
from jsplit.core.links import stateless
from jsplit.core.trees import is_floating


class _Quantized(NamedTuple):
    """One array on its way.

    Attributes:
        levels: `bits` bits each, packed into uint8
            [ceil(size * bits / 8)].
        scale: the distance of two levels: a scalar, or bfloat16 with axes of size 1
            in the place of those along which it is shared.
    """

    levels: jax.Array
    scale: jax.Array


def quantize(
    bits: int = 8,
    *,
    axis: int | tuple[int, ...] | None = -1,
    stochastic: bool = True,
) -> Link:
    """Quantise every floating array uniformly to `2**bits - 1` levels.

    The numbers along `axis` share a scale, by default those along the last: one scale for
    each record of a table, each token of a text, each place of an image. So a large number
    costs precision where it is, and nowhere else: language models have a few activations
    that are a thousand times the others, and with one scale for all (`axis=None`) these
    take all levels. A scale is 2 bytes, rounded up to bfloat16. Where the last axis is short,
    as the channels of an image, `axis=(1, 2, 3)` has one scale for a record.

    With stochastic rounding it is unbiased: over the key, the decoded
    array equals the value in expectation. No number is off by more than
    one level, `max|x| / (2**(bits - 1) - 1)` of those with its scale (and the 128th part
    of it). A NaN or infinity makes all numbers with its scale NaN; it is never hidden.

    Args:
        bits: width of one number on the wire, 2 to 8. Narrow numbers are
            packed.
        axis: along which numbers share one scale; several axes, or `None`: all numbers of
            an array share one, of 4 bytes.
        stochastic: whether to round up or down at random, or else to the
            nearest level.

    Returns:
        A `Link` whose payload holds packed levels and the scales of each array.

    Raises:
        ValueError: if `bits` lies outside 2..8, or `axis` is none; in a trace, if an array
            has no such axis.

    References:
        Alistarh et al., `QSGD <https://arxiv.org/abs/1610.02132>`_, 2017,
        section 3.1.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.compress.quantize(4)
        >>> value = jnp.ones(100)
        >>> payload, _ = jax.eval_shape(link.encode, (), value, jax.random.key(0))
        >>> value.nbytes, payload.levels.size, payload.levels.dtype
        (400, 50, dtype('uint8'))
        >>> payload.scale
        ShapeDtypeStruct(shape=(1,), dtype=bfloat16)
    """
    is_integer = hasattr(bits, "__index__") and not isinstance(bits, bool)
    if not is_integer or not 2 <= index(bits) <= 8:
        raise ValueError(f"`bits` must be an integer in 2..8, got {shown(bits)}.")
    axes = _checked_axes(axis)
    # One level fewer than the bits could say, so that they lie evenly
    # around zero and zero itself is one of them.
    top = 2 ** (bits - 1) - 1

    def encode_array(x: jax.Array, key: jax.Array) -> _Quantized:
        # In bfloat16 neighbouring levels of 8 bits would fall together.
        x = x.astype(at_least_float32(x.dtype))
        if axes is None or x.ndim == 0:
            sent = scale = jnp.max(jnp.abs(x), initial=0) / top
        else:
            _refuse_other(axes, x.ndim)
            sent = _rounded_up(
                jnp.max(jnp.abs(x), axes, keepdims=True, initial=0) / top
            )
            # Levels are of the scale that the receiver has.
            scale = sent.astype(x.dtype)
        level = x / jnp.where(scale > 0, scale, 1)
        offset = jax.random.uniform(key, x.shape, x.dtype) if stochastic else 0.5
        level = jnp.clip(jnp.floor(level + offset), -top, top)
        # As an integer a NaN would be some level like any other: the
        # scale carries it.
        sent = jnp.where(jnp.isfinite(scale), sent, jnp.nan)
        return _Quantized(pack((level + top).astype(jnp.uint8).ravel(), bits), sent)

    def decode_array(array: _Quantized, like: jax.ShapeDtypeStruct) -> jax.Array:
        scale = array.scale.astype(at_least_float32(like.dtype))
        level = unpack(array.levels, bits, like.size).astype(scale.dtype) - top
        return (level.reshape(like.shape) * scale).astype(like.dtype)

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        leaves, structure = jax.tree.flatten(value)
        payload = []
        for i, x in enumerate(leaves):
            # Arrays of one value round independently, or their errors
            # would add up.
            own = jax.random.fold_in(key, i)
            payload.append(encode_array(x, own) if is_floating(x) else x)
        return jax.tree.unflatten(structure, payload)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(like)
        arrays = structure.flatten_up_to(payload)
        decoded = []
        for array, shape in zip(arrays, leaves, strict=True):
            decoded.append(decode_array(array, shape) if is_floating(shape) else array)
        return structure.unflatten(decoded)

    return stateless(encode, decode)


def _checked_axes(axis: int | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The axes along which a scale is shared."""
    if axis is None:
        return None
    found = axis if isinstance(axis, tuple) else (axis,)
    integers = (hasattr(a, "__index__") and not isinstance(a, bool) for a in found)
    if not found or not all(integers):
        raise ValueError(
            f"`axis` must be an integer, a tuple of them or None, got {shown(axis)}."
        )
    return tuple(index(a) for a in found)


def _refuse_other(axes: tuple[int, ...], ndim: int) -> None:
    """Refuse axes that an array does not have; JAX would not name the argument."""
    if not all(-ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(
        axes
    ):
        raise ValueError(
            f"`axis` of `quantize` is {axes}, and a value that crosses has {ndim} axes."
        )


def _rounded_up(scale: jax.Array) -> jax.Array:
    """A scale, none below 0, as the next larger bfloat16, so that no level is cut off."""
    wide = jax.lax.bitcast_convert_type(scale.astype(jnp.float32), jnp.uint32)
    # The upper half of a float32 is a bfloat16: of one that is not 0 below, the next.
    upper = ((wide + jnp.uint32(0xFFFF)) >> 16).astype(jnp.uint16)
    up = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    # The bits of infinity and NaN are not counted on.
    return jnp.where(jnp.isfinite(scale), up, jnp.nan)


def pack(levels: jax.Array, bits: int) -> jax.Array:
    """Pack numbers of few bits into bytes; `unpack` is the inverse.

    Args:
        levels: uint8 [n], each below `2**bits`.
        bits: of each number.

    Returns:
        uint8 [ceil(n * bits / 8)].
    """
    if bits == 8:
        return levels
    return jnp.packbits((levels[:, None] >> jnp.arange(bits, dtype=jnp.uint8)) & 1)


def unpack(packed: jax.Array, bits: int, size: int) -> jax.Array:
    """Unpack numbers of few bits; `pack` is the inverse.

    Args:
        packed: uint8 [ceil(size * bits / 8)].
        bits: of each number.
        size: how many there are, since the last byte may be filled up.

    Returns:
        uint8 [size].
    """
    if bits == 8:
        return packed
    ones = jnp.unpackbits(packed, count=size * bits).reshape(size, bits)
    return jnp.sum(ones << jnp.arange(bits, dtype=jnp.uint8), axis=1, dtype=jnp.uint8)
