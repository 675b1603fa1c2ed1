"""The malicious optimizer: a client whose bottom learns faster than others', to carry the label.

The faster a bottom learns, the more of the task is solved in it rather than in the server's
top, and the less is left for a completion to find.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.privacy.attacks.rates import check_weights


class _Speeding(NamedTuple):
    """The state of `malicious`.

    Attributes:
        last: the last updates, as they were given out.
        inner: the state of the optimizer itself.
    """

    last: PyTree
    inner: optax.OptState


def malicious(
    optimizer: optax.GradientTransformation,
    gamma: float = 1.0,
    least: float = 1.0,
    most: float = 5.0,
) -> optax.GradientTransformation:
    """Make an optimizer take longer steps where gradients keep their sign.

    What an active adversary trains its own bottom with, to make `model_completion` work
    better. Every entry of an update u is multiplied by 1 + gamma u / (the last one),
    within `least` and `most`; the first update is left as it is. Nothing that others
    see departs from what was agreed on. Of plain SGD it is the authors' optimizer; with
    momentum theirs also feeds the longer steps into the momentum, this one does not.

    Args:
        optimizer: what the party would train with, or a fast one.
        gamma: how much faster, from 0 on; 0 is the optimizer as it is.
        least: the smallest factor, at most 1.
        most: the largest factor.

    Returns:
        An optax optimizer, to be given to the trainer for the adversary's party.

    Raises:
        ValueError: if `gamma` is negative, or `least` and `most` do not include 1.

    References:
        Fu et al., `Label inference attacks against vertical federated learning
        <https://www.usenix.org/conference/usenixsecurity22/presentation/fu-chong>`_,
        2022, section 4.2; factors as in the authors' code.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from jsplit.privacy import malicious
        >>> optimizer = malicious(optax.sgd(1.0))
        >>> state = optimizer.init(jnp.zeros(()))
        >>> updates = []
        >>> for gradient in (1.0, 1.0, 1.0):
        ...     update, state = optimizer.update(jnp.float32(gradient), state)
        ...     updates.append(float(update))
        >>> updates
        [-1.0, -2.0, -1.5]
    """
    check_weights(gamma=gamma)
    if not least <= 1 <= most:
        raise ValueError(
            f"`least` and `most` must include 1, which changes nothing; got {least} "
            f"and {most}."
        )

    def init(params: PyTree) -> _Speeding:
        last = jax.tree.map(jnp.zeros_like, params)
        return _Speeding(last, optimizer.init(params))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, _Speeding]:
        found, inner = optimizer.update(updates, state.inner, params)

        def longer(u: jax.Array, last: jax.Array) -> jax.Array:
            # An entry that did not move says nothing of where this one goes.
            moved = last != 0
            ratio = jnp.where(moved, u / jnp.where(moved, last, 1), 0)
            factor = jnp.clip(1 + gamma * ratio, least, most)
            return jnp.where(moved, u * factor, u).astype(u.dtype)

        found = jax.tree.map(longer, found, state.last)
        return found, _Speeding(found, inner)

    return optax.GradientTransformation(init, update)
