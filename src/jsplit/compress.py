"""Links that make a crossing smaller: fewer bits for each number.

Every link here leaves integer and boolean arrays as they are, and keeps the structure of the
value, so links can be chained: `chain(cast(jnp.bfloat16), quantize(8))`.
"""

from __future__ import annotations

from operator import index
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.links import stateless
from jsplit.core.trees import is_floating

__all__ = ["cast", "quantize"]


def cast(dtype) -> Link:
    """Send every floating array in another floating dtype, and cast it back on arrival.

    Decoding an encoded value gives each number rounded to `dtype`; a second crossing changes nothing.

    Args:
        dtype: a floating dtype, as `jnp.bfloat16` or `jnp.float8_e4m3fn`.

    Raises:
        ValueError: if `dtype` is not floating.
    """
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`dtype` must be a floating dtype, got {dtype if dtype is None else jnp.dtype(dtype).name}."
        )

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        return jax.tree.map(lambda x: x.astype(dtype) if is_floating(x) else x, value)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        return jax.tree.map(lambda x, shape: x.astype(shape.dtype), payload, like)

    return stateless(encode, decode)


class _Quantized(NamedTuple):
    """Levels of one array, `bits` bits each, packed into uint8 [ceil(size * bits / 8)], and their scale."""

    levels: jax.Array
    scale: jax.Array


def quantize(bits: int = 8, *, stochastic: bool = True) -> Link:
    """Uniform quantisation of every floating array to `2**bits - 1` levels, with one scale per array.

    With stochastic rounding it is unbiased: over the key, the decoded array equals the value in
    expectation. No number is off by more than one level, `max|x| / (2**(bits - 1) - 1)`. A NaN or
    infinity anywhere makes the whole decoded array NaN; it is never hidden.

    Args:
        bits: width of one number on the wire, 2 to 8. Narrow numbers are packed.
        stochastic: round up or down at random (the default), or to the nearest level.

    Raises:
        ValueError: if `bits` lies outside 2..8.

    References:
        Alistarh et al., `QSGD <https://arxiv.org/abs/1610.02132>`_, 2017, section 3.1.
    """
    if (
        isinstance(bits, bool)
        or not hasattr(bits, "__index__")
        or not 2 <= index(bits) <= 8
    ):
        raise ValueError(f"`bits` must be an integer in 2..8, got {bits!r}.")
    top = 2 ** (bits - 1) - 1

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        leaves, structure = jax.tree.flatten(value)
        payload = [
            encode_array(x, jax.random.fold_in(key, i)) if is_floating(x) else x
            for i, x in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, payload)

    def encode_array(x: jax.Array, key: jax.Array) -> _Quantized:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = jnp.max(jnp.abs(x), initial=0) / top
        level = x / jnp.where(scale > 0, scale, 1)
        level = jnp.floor(
            level + (jax.random.uniform(key, x.shape, x.dtype) if stochastic else 0.5)
        )
        level = (jnp.clip(level, -top, top) + top).astype(jnp.uint8)
        return _Quantized(
            pack(level.ravel(), bits), jnp.where(jnp.isfinite(scale), scale, jnp.nan)
        )

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(like)
        arrays = structure.flatten_up_to(payload)
        return structure.unflatten(
            decode_array(a, shape) if is_floating(shape) else a
            for a, shape in zip(arrays, leaves, strict=True)
        )

    def decode_array(array: _Quantized, like: jax.ShapeDtypeStruct) -> jax.Array:
        level = unpack(array.levels, bits, like.size).astype(array.scale.dtype) - top
        return (level * array.scale).reshape(like.shape).astype(like.dtype)

    return stateless(encode, decode)


def pack(levels: jax.Array, bits: int) -> jax.Array:
    """uint8 [n], each below `2**bits`, to uint8 [ceil(n * bits / 8)]; `unpack` is the inverse."""
    if bits == 8:
        return levels
    return jnp.packbits((levels[:, None] >> jnp.arange(bits, dtype=jnp.uint8)) & 1)


def unpack(packed: jax.Array, bits: int, size: int) -> jax.Array:
    """uint8 [ceil(size * bits / 8)] to uint8 [size]."""
    if bits == 8:
        return packed
    ones = jnp.unpackbits(packed, count=size * bits).reshape(size, bits)
    return jnp.sum(ones << jnp.arange(bits, dtype=jnp.uint8), axis=1, dtype=jnp.uint8)
