"""An optimizer whose gradients arrive late: training with a party that others see as it was some steps ago."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int


class _Late(NamedTuple):
    """Gradients under way, [steps, ...] each, in a ring; how many updates were asked for; the optimizer's own state."""

    waiting: PyTree
    asked: jax.Array
    inner: Any


def stale(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """`optimizer`, with every gradient applied exactly `steps` steps after it was computed.

    Given to a server, every cotangent it returns comes from parameters that lack its last `steps` gradients: an asynchronous
    server with the worst case of that bound. Given to a client, it goes on with the next batches while the cotangents
    of the last `steps` are under way. The first `steps` steps change nothing; the last `steps` gradients of a run are lost.

    Args:
        optimizer: what applies them.
        steps: the staleness, positive. It holds that many copies of the parameters.

    References:
        Zinkevich et al., `Slow learners are fast <https://arxiv.org/abs/0911.0491>`_, 2009, Algorithm 1 (delayed stochastic
        gradient descent).
    """
    steps = as_positive_int("steps", steps)

    def init(params: PyTree) -> Any:
        waiting = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), params)
        return _Late(waiting, jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        updates: PyTree, state: Any, params: PyTree = None
    ) -> tuple[PyTree, Any]:
        place, due = state.asked % steps, state.asked >= steps
        found, inner = optimizer.update(
            jax.tree.map(lambda x: x[place], state.waiting), state.inner, params
        )
        found = jax.tree.map(lambda x: jnp.where(due, x, 0), found)
        inner = jax.tree.map(
            lambda new, old: jnp.where(due, new, old), inner, state.inner
        )
        waiting = jax.tree.map(
            lambda x, g: x.at[place].set(g.astype(x.dtype)), state.waiting, updates
        )
        return found, _Late(waiting, state.asked + 1, inner)

    return optax.GradientTransformation(init, update)
