"""Noise on gradients where clients step together: a draw of each, or one of the batch of all.

The secrets of a party lie along an axis of clients there, whoever it is: of the clients'
own parties one is of each client, and of the others too, for their messages to each.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.gradient_noise import GradientNoise


def noise_of_each(one: GradientNoise, *, own: bool) -> GradientNoise:
    """Noise on a segment that runs once for each client: each draws of its own secret.

    Args:
        one: of one client.
        own: whether each has parameters of its own, and so a gradient, [clients, ...].
    """

    def add(keys: jax.Array, gradient: PyTree, scale: jax.Array) -> PyTree:
        axes = (0, 0 if own else None, 0 if scale.ndim else None)
        if own:
            return jax.vmap(one.add, axes)(keys, gradient, scale)
        # What all share has one gradient, the sum of theirs: each adds its own.
        zeros = jax.tree.map(jnp.zeros_like, gradient)
        drawn = jax.vmap(one.add, axes)(keys, zeros, scale)
        return jax.tree.map(lambda g, n: g + n.sum(0), gradient, drawn)

    return replace(one, add=add)


def noise_of_all(one: GradientNoise) -> GradientNoise:
    """Noise on a segment that runs once, on the batch of all: its gradient gets one draw.

    Args:
        one: of a step of one client.
    """

    def add(keys: jax.Array, gradient: PyTree, scale: jax.Array) -> PyTree:
        # Any of the party's secrets is as good, and the step's number is new.
        return one.add(keys[0], gradient, scale)

    return replace(one, add=add)
