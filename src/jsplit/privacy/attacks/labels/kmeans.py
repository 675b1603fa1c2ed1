"""k-means as one compiled function, for sets that are padded to one size.

An attack clusters the records of every step. Compiled once it takes milliseconds for each,
and no threads of its own, which on a machine with other work wait for one another.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

ITERATIONS = 50  # of Lloyd; far fewer change anything


@partial(jax.jit, static_argnames=("clusters", "starts"))
def kmeans(
    key: jax.Array, x: jax.Array, counts: jax.Array, clusters: int, starts: int
) -> tuple[jax.Array, jax.Array]:
    """Cluster rows by k-means++ and Lloyd's iteration; of several starts the best counts.

    Args:
        key: a PRNG key.
        x: [rows, numbers].
        counts: bool [rows], whether a row counts; others are padding.
        clusters: how many.
        starts: how many starts.

    Returns:
        Centres [clusters, numbers], and squared distances to them [rows, clusters].

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """
    weight = counts.astype(x.dtype)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        centres = _seeded(key, x, weight, clusters)

        def moved(_, centres: jax.Array) -> jax.Array:
            near = jax.nn.one_hot(_squares(x, centres).argmin(1), clusters)
            near = near * weight[:, None]
            sizes = near.sum(0)[:, None]
            means = near.T @ x / jnp.maximum(sizes, 1)
            # A cluster that lost all its records stays where it was.
            return jnp.where(sizes > 0, means, centres)

        centres = jax.lax.fori_loop(0, ITERATIONS, moved, centres)
        return centres, (_squares(x, centres).min(1) * weight).sum()

    centres, left = jax.vmap(one)(jax.random.split(key, starts))
    chosen = centres[left.argmin()]
    return chosen, _squares(x, chosen)


def _squares(x: jax.Array, centres: jax.Array) -> jax.Array:
    """Squared distances [rows, clusters], without an array of all differences."""
    lengths = (x**2).sum(1, keepdims=True) + (centres**2).sum(1)
    return jnp.maximum(lengths - 2 * x @ centres.T, 0)


def _seeded(
    key: jax.Array, x: jax.Array, weight: jax.Array, clusters: int
) -> jax.Array:
    """First centres: rows, each drawn in proportion to its squared distance to those before."""

    def drawn(number: int, centres: jax.Array) -> jax.Array:
        squares = _squares(x, centres)
        # Centres that are not drawn yet are far from nothing.
        known = jnp.arange(clusters) < number
        near = jnp.where(known, squares, jnp.inf).min(1)
        share = jnp.where(number == 0, 1.0, near) * weight
        # Of rows that all lie on centres any will do.
        share = jnp.where(share.sum() > 0, share, weight)
        row = jax.random.choice(
            jax.random.fold_in(key, number), len(x), p=share / share.sum()
        )
        return centres.at[number].set(x[row])

    first = jnp.zeros((clusters, x.shape[1]), x.dtype)
    return jax.lax.fori_loop(0, clusters, drawn, first)
