"""An optimizer whose gradients arrive late.

So one trains with a party that others see as it was some steps ago.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int


class _LateState(NamedTuple):
    """The state of `stale`.

    Attributes:
        waiting: gradients under way in a ring, [steps, ...] each.
        asked: how many updates were asked for, int32.
        inner: the state of the optimizer itself.
    """

    waiting: PyTree
    asked: jax.Array
    inner: optax.OptState


def stale(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """Apply every gradient exactly `steps` steps after it was computed.

    Given to a server, every cotangent that it returns comes from
    parameters that lack its last `steps` gradients: an asynchronous
    server with the worst case of that bound. Given to a client, it goes
    on with the next batches while the cotangents of the last `steps`
    are under way. The first `steps` steps change nothing; the last
    `steps` gradients of a run are lost.

    Args:
        optimizer: what applies them.
        steps: the staleness, positive. It holds that many copies of the
            parameters.

    Returns:
        An optax optimizer.

    Raises:
        ValueError: if `steps` is not a positive integer.

    References:
        Zinkevich et al., `Slow learners are fast
        <https://arxiv.org/abs/0911.0491>`_, 2009, Algorithm 1 (delayed
        stochastic gradient descent).

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> optimizer = jsplit.stale(optax.sgd(1.0), steps=1)
        >>> weight = jnp.zeros(())
        >>> state = optimizer.init(weight)
        >>> updates = []
        >>> for gradient in (1.0, 2.0, 3.0):
        ...     update, state = optimizer.update(jnp.float32(gradient), state, weight)
        ...     updates.append(float(update))
        >>> updates
        [0.0, -1.0, -2.0]
    """
    steps = as_positive_int("steps", steps)

    def init(params: PyTree) -> _LateState:
        waiting = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), params)
        return _LateState(waiting, jnp.zeros((), jnp.int32), optimizer.init(params))

    # The state is this one's own; optax types that of every optimizer alike.
    def update(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, _LateState]:
        # The place that becomes free by what is due now is that of what
        # comes now.
        place, due = state.asked % steps, state.asked >= steps
        old = jax.tree.map(lambda x: x[place], state.waiting)
        found, inner = optimizer.update(old, state.inner, params)

        # Until the first gradient arrives the optimizer has seen
        # nothing at all: not zeros either, which would count in its
        # moments.
        found = jax.tree.map(lambda x: jnp.where(due, x, 0), found)
        inner = jax.tree.map(
            lambda new, old: jnp.where(due, new, old), inner, state.inner
        )
        waiting = jax.tree.map(
            lambda x, g: x.at[place].set(g.astype(x.dtype)), state.waiting, updates
        )
        return found, _LateState(waiting, state.asked + 1, inner)

    return optax.GradientTransformation(init, update)
