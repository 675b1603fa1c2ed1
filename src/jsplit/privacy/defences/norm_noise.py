"""`max_norm` and `isotropic`: noise on cotangents whose size follows the largest of the batch.

Both need no label, so they are for any number of classes; `marvell` protects two better.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.links import Own, stateless
from jsplit.core.strength import Strength
from jsplit.privacy.defences.records import (
    arrays,
    checked_scale,
    norms,
    sent_as,
    vectors,
)
from jsplit.privacy.guarantees.mechanism import Mechanism


def max_norm(scale: float | Strength = 1.0) -> Link:
    """Stretch each record's cotangent at random, so that all norms are alike.

    A cotangent g becomes `g (1 + s n)`, n normal and
    `s^2 = (largest norm of the batch / |g|)^2 - 1`: unbiased, and its squared
    norm is that of the largest in expectation. The noise is secret, and lies
    along g: the *line* of a cotangent stays as it was. No differential privacy.

    Args:
        scale: factor of s; 1 is the paper's, 0 sends what is. A
            `jsplit.Strength` can be set between steps.

    Returns:
        A secret `Link` for the cotangents: `links={"h": (None, max_norm())}`.

    Raises:
        ValueError: if `scale` is negative or not finite.

    References:
        Li et al., `Label leakage and protection in two-party split learning
        <https://arxiv.org/abs/2102.08504>`_, 2022, section 4.1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import max_norm
        >>> own = {"max_norm_scale": jnp.float32(1)}
        >>> g = jnp.array([[3.0, 4.0], [0.0, 1.0]])
        >>> sent, _ = max_norm().encode((), g, jax.random.key(0), own)
        >>> print(sent[0])  # the largest, as it was
        [3. 4.]
    """

    def noise(rows: jax.Array, key: jax.Array) -> jax.Array:
        sizes = norms(rows)
        largest = jnp.max(sizes)
        # Directions and shares, whose squares are numbers however sizes differ. A
        # cotangent of 0 has no direction, and is stretched to 0.
        directions = rows / jnp.where(sizes > 0, sizes, 1)
        share = sizes / jnp.where(largest > 0, largest, 1)
        deviation = largest * jnp.sqrt(jnp.maximum(1 - share**2, 0))
        return directions * deviation * jax.random.normal(key, sizes.shape, rows.dtype)

    return _noisy("max norm", "max_norm_scale", checked_scale("scale", scale), noise)


def isotropic(ratio: float | Strength) -> Link:
    """Add the same normal noise to all cotangents of a batch, in all directions.

    Its deviation, of each of d numbers, is `ratio / sqrt(d)` times the largest
    norm in the batch, so its expected norm is about `ratio` of the largest.
    Unbiased, and secret. No differential privacy: the deviation follows from
    the batch. Clusters of directions see through it where a cosine does not.

    Args:
        ratio: of the noise to the largest norm; 0 sends what is. A
            `jsplit.Strength` can be set between steps.

    Returns:
        A secret `Link` for the cotangents: `links={"h": (None, isotropic(5))}`.

    Raises:
        ValueError: if `ratio` is negative or not finite.

    References:
        Li et al., `Label leakage and protection in two-party split learning
        <https://arxiv.org/abs/2102.08504>`_, 2022, section 5, "iso".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import isotropic
        >>> own = {"isotropic_ratio": jnp.float32(5)}
        >>> sent, _ = isotropic(5).encode((), jnp.ones((4, 3)), jax.random.key(0), own)
        >>> sent.shape
        (4, 3)
    """

    def noise(rows: jax.Array, key: jax.Array) -> jax.Array:
        deviation = jnp.max(norms(rows)) / sqrt(max(rows.shape[1], 1))
        return deviation * jax.random.normal(key, rows.shape, rows.dtype)

    return _noisy("isotropic", "isotropic_ratio", checked_scale("ratio", ratio), noise)


def _noisy(
    kind: str,
    name: str,
    scale: float | Strength,
    noise: Callable[[jax.Array, jax.Array], jax.Array],
) -> Link:
    """A link that adds a strength times a noise."""

    def encode(value: PyTree, key: jax.Array, own: Own) -> PyTree:
        rows = vectors(value, kind)
        noisy = rows + own[name] * noise(rows, key)
        # At 0 bit for bit what it was: a sum with 0 would make 0 of -0.
        return arrays(jnp.where(own[name] > 0, noisy, rows), value)

    return stateless(
        encode,
        sent_as,
        secret=True,
        strengths={name: scale},
        mechanism=Mechanism(kind, secret=True),
    )
