"""Whether a segment gives piece by piece what it gives at once, looked at in a first call.

A cache that is right in the first call may be wrong in the next: one that does not
advance, or one of a segment that was said to need none. So a first call is cut in two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract

Alone = Callable[..., PyTree]
"""What a segment gives of inputs, without a cache."""
Onward = Callable[..., tuple[PyTree, PyTree]]
"""`onward(cache, *inputs) -> (output, cache)`."""


def last_is_alone(alone: Alone, output: PyTree, inputs: Sequence[PyTree]) -> jax.Array:
    """Whether the last position needs nothing of those before it, bool [].

    Args:
        alone: the segment, which has no cache.
        output: of all positions.
        inputs: of all positions.
    """
    shapes = [x.shape for x in jax.tree.leaves(inputs)]
    if any(len(s) < 2 or s[1] < 2 for s in shapes):
        return jnp.array(True)
    last = alone(*jax.tree.map(lambda x: x[:, -1:], tuple(inputs)))
    return _close(last, jax.tree.map(lambda y: y[:, -1:], output))


def pieces_are_whole(
    alone: Alone,
    onward: Onward,
    cache: PyTree,
    output: PyTree,
    inputs: Sequence[PyTree],
) -> jax.Array:
    """Whether a cache gives what the segment gives without it, at once and in two pieces.

    Args:
        alone: the segment without its cache.
        onward: the segment by its cache.
        cache: of a sequence of which nothing has come.
        output: by it, of all positions at once.
        inputs: of all positions.
    """
    same = []
    # A slice of `jsplit.split` is of one length, and knows none but that.
    if _runs(alone, *inputs):
        same.append(_close(output, alone(*inputs)))
    if all(x.shape[1] < 2 for x in jax.tree.leaves(inputs)):
        # Of one position nothing shows; the same once more does as a second one.
        inputs = jax.tree.map(lambda x: jnp.concatenate([x, x], 1), tuple(inputs))
        if not _runs(alone, *inputs):
            return jnp.stack([*same, jnp.array(True)]).all()
        output = alone(*inputs)

    def in_two(cache: PyTree, *inputs: PyTree) -> PyTree:
        before = jax.tree.map(lambda x: x[:, :-1], tuple(inputs))
        last = jax.tree.map(lambda x: x[:, -1:], tuple(inputs))
        one, cache = onward(cache, *before)
        two, _ = onward(cache, *last)
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), one, two)

    # What cannot run now is told of in the call that cannot run.
    if _runs(in_two, cache, *inputs):
        same.append(_close(in_two(cache, *inputs), output))
    return jnp.stack([*same, jnp.array(True)]).all()


def _runs(function: Callable[..., PyTree], *given: PyTree) -> bool:
    try:
        jax.eval_shape(function, *given)
    except Exception:
        return False
    return True


def _close(one: PyTree, other: PyTree) -> jax.Array:
    """Whether two values are equal to rounding, relative to the largest of each array."""
    if abstract(one) != abstract(other):
        return jnp.array(False)
    same = [jnp.array(True)]
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            same.append((x == y).all())
            continue
        # The square root: many sums of products, in another order.
        # Of the finite ones: a token that is masked has -inf, and is no measure.
        largest = jnp.where(jnp.isfinite(y), jnp.abs(y), 0).max(initial=0)
        room = float(jnp.finfo(x.dtype).eps) ** 0.5 * largest
        near = (x == y) | (jnp.abs(x - y) <= room) | (jnp.isnan(x) & jnp.isnan(y))
        same.append(near.all())
    return jnp.stack(same).all()
