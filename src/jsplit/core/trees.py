"""Pytrees of arrays: their shapes, their sizes, and the part of them that can be differentiated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree


def abstract(tree: PyTree) -> PyTree:
    """The shapes and dtypes of a pytree of arrays, as `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree
    )


def nbytes(tree: PyTree) -> int:
    """The size of a pytree of arrays, or of their shapes; a PRNG key counts as what it is made of."""

    def size(x: Any) -> int:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.eval_shape(jax.random.key_data, x)
        return x.size * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def frame_bytes(payload: PyTree) -> int:
    """The size of the frame around a message: which message it is, and the dtype and shape of each of its arrays.

    96 bytes (protocol and version, run, epoch, sender, receiver, step, micro-batch, kind, value, sizes, checksum), and for each
    array 8 and 8 for each axis. What gRPC, TLS and TCP add below is not counted.
    """
    return 96 + sum(8 + 8 * len(x.shape) for x in jax.tree.leaves(payload))


def describe(shapes: PyTree) -> str:
    """Shapes and dtypes in words: `float32[8,3]`, several in the order of their leaves."""
    return (
        " and ".join(
            f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in jax.tree.leaves(shapes)
        )
        or "nothing"
    )


def batch_of(fields: Mapping[str, PyTree]) -> int:
    """The length of the leading axis that all arrays of all fields share."""
    sizes: dict[str, Any] = {}
    for name, value in fields.items():
        for x in jax.tree.leaves(value):
            shape = jnp.shape(x)
            if not shape and isinstance(value, (list, tuple)):
                raise ValueError(
                    f"`{name}` must be an array, got a {type(value).__name__}; make one by np.asarray."
                )
            if not shape:
                raise ValueError(
                    f"`{name}` has no batch axis: it is a scalar; the leading axis of each value is the batch."
                )
            if sizes.setdefault(name, shape[0]) != shape[0]:
                raise ValueError(
                    f"batch axes differ: `{name}` has {sizes[name]} and {shape[0]} examples."
                )
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"batch axes differ: {', '.join(f'`{n}` has {s}' for n, s in sizes.items())} examples."
        )
    size = next(iter(sizes.values()), None)
    if size is None or (isinstance(size, int) and size < 1):
        raise ValueError(
            f"the batch is empty: {', '.join(f'`{n}`' for n in fields) or 'no field'} has no examples."
        )
    return size


def inexact_part(tree: PyTree) -> PyTree:
    """The part of a pytree that can be differentiated: `None` in the place of every other leaf.

    Cotangents and gradients have this form; `combine` is the inverse."""
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None, tree
    )


def combine(tree: PyTree, part: PyTree) -> PyTree:
    """`tree` with the leaves of `part` in the place of its own, wherever `part` has one."""
    return jax.tree.map(lambda x, new: x if new is None else new, tree, part)


def tree_sum(trees: Sequence[PyTree]) -> PyTree:
    first, *others = trees
    for tree in others:
        first = jax.tree.map(jnp.add, first, tree)
    return first


def is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def narrow(tree: PyTree, dtype: Any) -> PyTree:
    """The floating arrays and numbers of a pytree cast to `dtype`."""
    return jax.tree.map(
        lambda x: (
            jnp.asarray(x, dtype) if isinstance(x, float) or is_floating(x) else x
        ),
        tree,
    )
