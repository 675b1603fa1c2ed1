"""`top_k` and `randomized_top_k`: links that send few numbers of each record, and their places.

Which ones is chosen record by record, so no record says anything of another.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.compress.feedback import error_feedback as feedback_of
from jsplit.core.base import Link, PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.links import stateless
from jsplit.core.trees import is_floating

Choose = Callable[[jax.Array, jax.Array], jax.Array]
"""From magnitudes [records, numbers] and a key to the places that are sent, [records, k]."""


class _Sparse(NamedTuple):
    """One array on its way.

    Attributes:
        values: those that are sent, [records, k].
        places: where they are in a record, the narrowest unsigned integers
            that can say it, [records, k].
    """

    values: jax.Array
    places: jax.Array


def top_k(k: int, *, error_feedback: bool = False) -> Link:
    """Send the k largest numbers of each record, by magnitude, and zeros for all others.

    It is biased: what is left out is never sent. Each array of a value is
    taken by itself, its first axis that of records; one with at most k
    numbers a record is sent as it is. A NaN counts as largest, so it is never
    hidden.

    With `error_feedback` the sender keeps what it left out and adds it to
    what it sends next, **by place in the batch**: this is
    `jsplit.compress.error_feedback(top_k(k))`, which keeps it by record too.

    Args:
        k: how many numbers of each record are sent, at least 1.
        error_feedback: whether what was left out is added the next time, in training.

    Returns:
        A `Link` whose payload holds k values and k places a record for each
        floating array.

    Raises:
        ValueError: if `k` is no positive integer.

    References:
        Aji & Heafield, `Sparse communication for distributed gradient descent
        <https://arxiv.org/abs/1704.05021>`_, 2017; error feedback: Stich, Cordonnier
        & Jaggi, `Sparsified SGD with memory <https://arxiv.org/abs/1809.07599>`_,
        2018, algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.compress.top_k(2)
        >>> h = jnp.array([[3.0, -1.0, 0.5, -4.0]])
        >>> payload, _ = link.encode((), h, jax.random.key(0))
        >>> payload.places.dtype, print(link.decode(payload, jax.typeof(h)))
        [[ 3.  0.  0. -4.]]
        (dtype('uint8'), None)
    """
    k = as_positive_int("k", k)

    def choose(size: jax.Array, key: jax.Array) -> jax.Array:
        return jax.lax.top_k(size, k)[1]

    return _sparse(k, choose, error_feedback)


def randomized_top_k(
    k: int, alpha: float = 0.1, *, error_feedback: bool = False
) -> Link:
    """Send k numbers of each record, most of them from its k largest, the others from the rest.

    They are drawn one after another without putting back, each of the k largest
    with probability `(1 - alpha) / k` and each other one with
    `alpha / (numbers - k)`. So the units that are small now are trained too, which
    the authors find to train better than `top_k`. They draw in training alone;
    a link does the same in inference, where a second trainer with
    `links={"h": top_k(k)}` takes the same state.

    Args:
        k: how many numbers of each record are sent, at least 1.
        alpha: share of draws from the rest, from 0 to below 1; 0 is `top_k`.
            The paper takes 0.05 to 0.3.
        error_feedback: as of `top_k`.

    Returns:
        A `Link` as of `top_k`.

    Raises:
        ValueError: if `k` is no positive integer, or `alpha` is out of range.

    References:
        Zheng et al., `Reducing communication for split learning by randomized top-k
        sparsification <https://arxiv.org/abs/2305.18469>`_, IJCAI 2023, equation 6.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.compress.randomized_top_k(2, 0.2)
        >>> payload, _ = link.encode((), jnp.ones((4, 10)), jax.random.key(0))
        >>> payload.values.shape
        (4, 2)
    """
    k = as_positive_int("k", k)
    is_number = isinstance(alpha, Real) and not isinstance(alpha, bool)
    if not is_number or not 0 <= alpha < 1:
        raise ValueError(f"`alpha` must lie in [0, 1), got {shown(alpha)}.")
    if alpha == 0:
        return top_k(k, error_feedback=error_feedback)

    def choose(size: jax.Array, key: jax.Array) -> jax.Array:
        numbers = size.shape[1]
        largest = jax.lax.top_k(size, k)[1]
        rows = jnp.arange(len(size))[:, None]
        chance = jnp.full(size.shape, log(alpha / (numbers - k)), jnp.float32)
        chance = chance.at[rows, largest].set(log((1 - alpha) / k))
        # The k largest of log p + Gumbel noise are k draws without putting back.
        noise = jax.random.gumbel(key, size.shape, jnp.float32)
        drawn = jax.lax.top_k(chance + noise, k)[1]
        # Where a record has a NaN it is sent, whatever is drawn.
        bad = jnp.isnan(size).any(axis=1, keepdims=True)
        return jnp.where(bad, largest, drawn)

    return _sparse(k, choose, error_feedback)


def _sparse(k: int, choose: Choose, feedback: bool) -> Link:
    """A link that sends those numbers that are chosen."""

    def is_sparse(x: PyTree) -> bool:
        return is_floating(x) and len(x.shape) > 0 and x.size > k * x.shape[0]

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        leaves, structure = jax.tree.flatten(value)
        payload = []
        for i, x in enumerate(leaves):
            if not is_sparse(x):
                payload.append(x)
                continue
            rows = x.reshape(len(x), -1)
            # NumPy and XLA sort a NaN as largest; `abs` keeps it one.
            places = choose(jnp.abs(rows), jax.random.fold_in(key, i))
            values = jnp.take_along_axis(rows, places, axis=1)
            payload.append(_Sparse(values, places.astype(_narrowest(rows.shape[1]))))
        return jax.tree.unflatten(structure, payload)

    def decode(payload: PyTree, like: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(like)
        found = []
        for x, shape in zip(structure.flatten_up_to(payload), leaves, strict=True):
            if is_sparse(shape):
                x = _dense(x.values, x.places, shape.shape, shape.dtype)
            found.append(x)
        return structure.unflatten(found)

    link = stateless(encode, decode)
    return feedback_of(link) if feedback else link


def _dense(values: jax.Array, places: jax.Array, shape, dtype) -> jax.Array:
    """An array with these values at these places of each record, and zeros else."""
    rows = jnp.arange(shape[0])[:, None]
    empty = jnp.zeros((shape[0], int(np.prod(shape[1:]))), dtype)
    return empty.at[rows, places].set(values.astype(dtype)).reshape(shape)


def _narrowest(numbers: int) -> np.dtype:
    """The narrowest unsigned integers that count so many places."""
    return np.min_scalar_type(max(numbers - 1, 0))
