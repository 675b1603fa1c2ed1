"""`GradientNoise`: what a segment's party adds to the gradient of its parameters in a step.

The record alone. It is drawn of the party's own secret key, once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jsplit.core.pytrees import PyTree
from jsplit.core.strength import Strength


@dataclass(frozen=True)
class GradientNoise:
    """Noise on the gradient of one segment, as of private training.

    A trainer adds it after the backward pass and before anything looks at the
    gradient, so an optimizer that clips sees it with noise. With micro-batches, or
    a loss scale, gradients are in other units than the noise, so both are refused.

    Attributes:
        add: `add(key, gradient, scale) -> gradient`, where `key` is drawn from
            the party's own secret and `scale` is a float32 [].
        scale: that number; one that is a `jsplit.Strength` can be set between
            steps.
        mechanism: what it guarantees, for whoever looks for that.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.core.gradient_noise import GradientNoise
        >>> def add(key, gradient, scale):
        ...     draw = jax.random.normal(key, gradient.shape)
        ...     return gradient + scale * draw
        >>> GradientNoise(add, 0.5).scale
        0.5
    """

    add: Callable[[jax.Array, PyTree, jax.Array], PyTree]
    scale: float | Strength
    mechanism: object = None
