"""`low_rank`: a link that sends what a fixed projection leaves of the last axis.

Both ends make the projection of a seed, so only its results cross.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.finite import at_least_float32
from jsplit.core.links import stateless
from jsplit.core.trees import is_floating


def low_rank(rank: int, seed: int = 0) -> Link:
    """Send `rank` numbers in the place of each vector along the last axis.

    A vector `h` of d numbers crosses as `h @ p` and arrives as `h @ p @ p.T`, where the
    columns of `p` [d, rank] are orthonormal and drawn of `seed`: its projection onto a
    random subspace, the nearest that there is in that. Arrays of a last axis of at most
    `rank` are sent as they are.

    On an activation the cotangent that came back goes through the transpose of this as
    well, so gradients are exactly those of a model with the projection in it, a layer
    that is fixed. Give the cotangent the same link, as `links={"h": low_rank(8)}` does:
    then it crosses in `rank` numbers a vector too, and loses nothing that the transpose
    would keep. The model trains within the subspace, and cannot leave it.

    Args:
        rank: how many numbers are sent of each vector, at least 1.
        seed: of the projection; both ends have the same. It is no secret.

    Returns:
        A `Link` without memory, that `chain` takes as its first:
        `chain(low_rank(32), quantize(8))`.

    Raises:
        ValueError: if `rank` is no positive integer, or `seed` none from 0 to 2**32 - 1.

    References:
        A fixed orthogonal random projection at the cut: `LightSplit
        <https://arxiv.org/abs/2605.13265>`_, 2026. Near to it: Hsieh, Chuang & Wu, `C3-SL
        <https://arxiv.org/abs/2207.12397>`_, 2022, who superpose the records of a batch by
        fixed keys; here each record is projected by itself.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.compress.low_rank(2)
        >>> h = jnp.ones((4, 10))
        >>> payload, _ = link.encode((), h, jax.random.key(0))
        >>> once = link.decode(payload, jax.typeof(h))
        >>> again, _ = link.encode((), once, jax.random.key(0))
        >>> payload.shape, bool(jnp.allclose(again, payload, atol=1e-5))
        ((4, 2), True)
    """
    rank = as_positive_int("rank", rank)
    is_integer = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not is_integer or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be from 0 to 2**32 - 1, got {shown(seed)}.")

    def projection(x: PyTree) -> jax.Array | None:
        """That of an array, [d, rank], or `None` if it is sent as it is."""
        if not is_floating(x) or len(x.shape) == 0 or x.shape[-1] <= rank:
            return None
        return jnp.asarray(
            _orthonormal(x.shape[-1], rank, int(seed)), at_least_float32(x.dtype)
        )

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        def sent(x: jax.Array, p: jax.Array) -> jax.Array:
            return _product(x.astype(p.dtype), p).astype(x.dtype)

        return _each(value, value, projection, sent)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        def came(x: jax.Array, p: jax.Array) -> jax.Array:
            return _product(x.astype(p.dtype), p.T).astype(x.dtype)

        return _each(payload, like, projection, came)

    def pull(value: PyTree, cotangent: PyTree, key: jax.Array) -> PyTree:
        def through(x: jax.Array, p: jax.Array) -> jax.Array:
            # Its own transpose.
            return _product(_product(x.astype(p.dtype), p), p.T).astype(x.dtype)

        # A cotangent has `None` where its value has integers.
        return _each(cotangent, cotangent, projection, through)

    return stateless(encode, decode, pull=pull)


def _each(tree: PyTree, like: PyTree, projection, fn) -> PyTree:
    """`fn(array, projection)` of each array that has one, by the shapes of `like`."""
    shapes, structure = jax.tree.flatten(like)
    found: list[PyTree] = []
    for x, shape in zip(structure.flatten_up_to(tree), shapes, strict=True):
        # By its size alone, not by its place in the value: a cotangent lacks arrays that
        # its value has, and must meet the same projection.
        p = projection(shape)
        found.append(x if p is None else fn(x, p))
    return structure.unflatten(found)


def _product(x: jax.Array, p: jax.Array) -> jax.Array:
    # On a GPU float32 products are of fewer bits by default, and the columns would not
    # be orthonormal to those.
    return jnp.matmul(x, p, precision="highest")


def _orthonormal(numbers: int, rank: int, seed: int) -> np.ndarray:
    """Orthonormal columns that span a random subspace, [numbers, rank].

    By NumPy, whose numbers of a seed stay the same: parties may have other versions of
    JAX, and other devices.
    """
    rng = np.random.Generator(np.random.PCG64([seed, numbers, rank]))
    q, r = np.linalg.qr(rng.standard_normal((numbers, rank)))
    # QR is unique up to signs, which libraries choose as they like.
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)
