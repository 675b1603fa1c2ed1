"""`quantize`: a link that sends few bits for each number, unbiased.

Levels of two to eight bits are packed; every array has one scale.
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
        scale: the distance of two levels, a scalar.
    """

    levels: jax.Array
    scale: jax.Array


def quantize(bits: int = 8, *, stochastic: bool = True) -> Link:
    """Quantise every floating array uniformly to `2**bits - 1` levels, one scale each.

    With stochastic rounding it is unbiased: over the key, the decoded
    array equals the value in expectation. No number is off by more than
    one level, `max|x| / (2**(bits - 1) - 1)`. A NaN or infinity anywhere
    makes the whole decoded array NaN; it is never hidden.

    Args:
        bits: width of one number on the wire, 2 to 8. Narrow numbers are
            packed.
        stochastic: whether to round up or down at random, or else to the
            nearest level.

    Returns:
        A `Link` whose payload holds packed levels and a scalar scale for
        each array.

    Raises:
        ValueError: if `bits` lies outside 2..8.

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
    """
    is_integer = hasattr(bits, "__index__") and not isinstance(bits, bool)
    if not is_integer or not 2 <= index(bits) <= 8:
        raise ValueError(f"`bits` must be an integer in 2..8, got {shown(bits)}.")
    # One level fewer than the bits could say, so that they lie evenly
    # around zero and zero itself is one of them.
    top = 2 ** (bits - 1) - 1

    def encode_array(x: jax.Array, key: jax.Array) -> _Quantized:
        # In bfloat16 neighbouring levels of 8 bits would fall together.
        x = x.astype(at_least_float32(x.dtype))
        scale = jnp.max(jnp.abs(x), initial=0) / top
        level = x / jnp.where(scale > 0, scale, 1)
        offset = jax.random.uniform(key, x.shape, x.dtype) if stochastic else 0.5
        level = jnp.clip(jnp.floor(level + offset), -top, top)
        # As an integer a NaN would be some level like any other: the
        # scale carries it.
        scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)
        return _Quantized(pack((level + top).astype(jnp.uint8).ravel(), bits), scale)

    def decode_array(array: _Quantized, like: jax.ShapeDtypeStruct) -> jax.Array:
        level = unpack(array.levels, bits, like.size).astype(array.scale.dtype) - top
        return (level * array.scale).reshape(like.shape).astype(like.dtype)

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
