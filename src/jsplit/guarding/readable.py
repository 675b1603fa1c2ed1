"""Places of a cotangent that can train anybody: what is elsewhere hides what is there.

A ReLU drops whatever comes back where it gave 0. Who trains a bottom to leak can put large
random numbers there, or NaN, that drown what it does at the other places.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def readable(sent: jax.Array, returned: jax.Array) -> jax.Array:
    """Which numbers of a returned cotangent are looked at: once all, once the live ones.

    Dead are those whose sent value is exactly 0 (ReLU, dropout), or exactly the least or
    the largest of the message if it is there more than once (the ends of ReLU6, hardtanh,
    ELU, a saturated tanh). What is not finite is looked at in neither.

    Both are looked at since a value may be 0 and learn all the same: who hides in such
    places alone is seen among all.

    Args:
        sent: values, float32 [records, numbers].
        returned: their cotangents, of the same shape.

    Returns:
        Booleans [2, records, numbers].
    """
    dead = sent == 0
    for end in (sent.min(), sent.max()):
        at = sent == end
        # The largest of a value without an end is there once.
        dead |= at & (at.sum() > 1)
    finite = jnp.isfinite(returned)
    return jnp.stack([finite, finite & ~dead])
