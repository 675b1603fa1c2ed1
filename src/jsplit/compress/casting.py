"""`cast`: a link that sends numbers in another floating dtype.

The simplest link there is: a new one can begin as a copy of this file.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jsplit.core.base import Link, PyTree
from jsplit.core.links import stateless
from jsplit.core.trees import is_floating


def cast(dtype: DTypeLike) -> Link:
    """Send every floating array in another floating dtype, and cast it back on arrival.

    Decoding an encoded value gives each number rounded to `dtype`; a
    second crossing changes nothing.

    Args:
        dtype: a floating dtype, as `jnp.bfloat16` or `jnp.float8_e4m3fn`,
            or its name.

    Returns:
        A `Link` whose payload has the shapes of the value.

    Raises:
        ValueError: if `dtype` is not floating.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.compress.cast(jnp.bfloat16)
        >>> value = jnp.ones((4, 3))
        >>> payload, _ = jax.eval_shape(link.encode, (), value, jax.random.key(0))
        >>> payload
        ShapeDtypeStruct(shape=(4, 3), dtype=bfloat16)
    """
    # `None` is float64 to NumPy, so a dtype that was forgotten would be
    # taken for one.
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = None if dtype is None else jnp.dtype(dtype).name
        raise ValueError(f"`dtype` must be a floating dtype, got {got}.")

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        return jax.tree.map(lambda x: x.astype(dtype) if is_floating(x) else x, value)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        return jax.tree.map(lambda x, shape: x.astype(shape.dtype), payload, like)

    return stateless(encode, decode)
