"""PRNG keys: which arrays are keys, and which key a node draws from.

Randomness in a step is a function of (key, step, node), so that it can be
replayed anywhere. What a loss, a link or a segment draws from is derived
here or from what is here.
"""

from __future__ import annotations

from zlib import crc32

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree, Segment
from jsplit.core.typed_jax import eval_shape, key_data, wrap_key_data


def is_key(x: PyTree) -> bool:
    """Whether `x` is an array of typed PRNG keys, or the shape of one."""
    # The attribute where there is one: for a plain number JAX has to infer
    # the dtype, and for a `ShapeDtypeStruct` it cannot.
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def typed_key(key: jax.Array | None) -> jax.Array:
    """A typed key from a typed one or a raw one; for `None` any key, for where none is used.

    A raw key of four words, where the default implementation has two, is taken
    for one of `rbg`.
    """
    if key is None:
        return jax.random.key(0)

    if is_key(key):
        return key
    # The words of a raw key do not say which implementation they are of. JAX
    # takes them for the default one's; where that has another number of words,
    # they are of the other that JAX has.
    impl = None
    if key.shape[-1:] != eval_shape(lambda: key_data(jax.random.key(0))).shape:
        impl = {2: "threefry2x32", 4: "rbg"}.get(key.shape[-1])
    return wrap_key_data(key, impl=impl)


def node_key(key: jax.Array, name: str, segment: Segment) -> jax.Array:
    """The key that a node draws from in a step.

    Args:
        key: the key of the step, or of the start.
        name: the node's.
        segment: the node's.

    Returns:
        `key` itself if the segment shares it, else one folded from the
        name.
    """
    # A checksum and not `hash`, which Python salts anew in every process:
    # parties on different machines must fold the same number.
    return key if segment.shares_key else jax.random.fold_in(key, crc32(name.encode()))
