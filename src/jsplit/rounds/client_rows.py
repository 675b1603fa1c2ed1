"""One client's part of what all clients have, in and out of arrays that hold client after client.

Arrays of all clients are [count, ...], or of values [count * batch, ...];
either way a client's part is one slice along the leading axis.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.training.crossing import Packet


def row_of(tree: PyTree, number: jax.Array | int, count: int) -> PyTree:
    """Return the part of client `number` of what `count` clients have."""
    if isinstance(tree, Packet):
        # A packet knows the shapes that its decoder needs: those of one
        # client.
        like = jax.tree.map(lambda s: _shape(s, s.shape[0] // count), tree.like)
        return Packet(row_of(tree.payload, number, count), like)

    def cut(x: jax.Array) -> jax.Array:
        size = x.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(x, number * size, size)

    return jax.tree.map(cut, tree)


def empty_rows(like: PyTree, count: int | None) -> PyTree:
    """Return zeros for what `count` clients have, or for the sum over clients.

    Args:
        like: shapes and dtypes of what one client has.
        count: how many clients; `None`: there is one sum for all.

    Returns:
        Arrays of the shapes of what all have; a number of each is [count].
    """
    if isinstance(like, Packet):
        shapes = like.like
        if count is not None:
            shapes = jax.tree.map(lambda s: _shape(s, count * s.shape[0]), shapes)
        return Packet(empty_rows(like.payload, count), shapes)

    def zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
        if count is None:
            return jnp.zeros(x.shape, x.dtype)
        # What a link sends may be a number for each client, a scale say.
        shape = (count * x.shape[0], *x.shape[1:]) if x.shape else (count,)
        return jnp.zeros(shape, x.dtype)

    return jax.tree.map(zeros, like)


def put_row(tree: PyTree, part: PyTree, number: jax.Array | int) -> PyTree:
    """Return what all clients have, with the part of client `number` in its place.

    This is the inverse of `row_of`.
    """
    if isinstance(part, Packet):
        return Packet(put_row(tree.payload, part.payload, number), tree.like)

    def put(x: jax.Array, new: jax.Array) -> jax.Array:
        new = new if new.ndim else new[None]
        # The start is the client's place times the length of one part.
        start = number * new.shape[0]
        return jax.lax.dynamic_update_slice_in_dim(x, new, start, 0)

    return jax.tree.map(put, tree, part)


def _shape(s: jax.ShapeDtypeStruct, length: int) -> jax.ShapeDtypeStruct:
    """Return the shape with another length of its leading axis."""
    return jax.ShapeDtypeStruct((length, *s.shape[1:]), s.dtype)
