"""A segment that computes a sequence piece by piece: what it keeps of the pieces before.

The cache of a party lives at that party, and never crosses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jsplit.core.pytrees import Params, PyTree, State


class CacheInit(Protocol):
    """Make the cache of a sequence of which nothing has come yet."""

    def __call__(self, params: Params, state: State, /, *inputs: PyTree) -> PyTree:
        """Called with the shapes of the inputs of the longest sequence, [batch, length, ...]."""
        ...


class CacheApply(Protocol):
    """Compute the next positions of a sequence, and the cache with them in it."""

    def __call__(
        self, params: Params, state: State, cache: PyTree, /, *inputs: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Called with inputs [batch, positions, ...]; gives `(output, cache)`."""
        ...


# Static and hashed by identity, as the segment that holds it.
@dataclass(frozen=True)
class Cache:
    """How a segment computes a sequence piece by piece, in inference mode.

    `jsplit.with_cache` makes one of a Flax module; it can be written by hand.

    Attributes:
        init: `init(params, state, *inputs) -> cache`, arrays for a sequence of which
            nothing has come yet. `inputs` are shapes, [batch, length, ...], of the
            longest sequence.
        apply: `apply(params, state, cache, *inputs) -> (output, cache)`, of inputs
            [batch, positions, ...], the positions that come next.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def init(params, state, x):  # the sum of all that has come
        ...     return jnp.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype)
        >>> def apply(params, state, total, x):
        ...     sums = total + jnp.cumsum(x, 1)
        ...     return sums, sums[:, -1:]
        >>> sums = jsplit.segment(lambda x: jnp.cumsum(x, 1), inputs="x")
        >>> sums = jsplit.with_cache(sums, jsplit.Cache(init, apply))
        >>> total = sums.cache.init({}, {}, jax.ShapeDtypeStruct((1, 9, 2), "float32"))
        >>> y, total = sums.cache.apply({}, {}, total, jnp.ones((1, 3, 2)))
        >>> y, total = sums.cache.apply({}, {}, total, jnp.ones((1, 1, 2)))
        >>> y.tolist()
        [[[4.0, 4.0]]]
    """

    init: CacheInit
    apply: CacheApply
