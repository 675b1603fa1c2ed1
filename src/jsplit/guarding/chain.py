"""The chain rule, checked from outside: is what came back the derivative of what was answered?

Who sent a value, got an answer that depends on it and gave the answer's cotangent, as
the client of a U-shape, knows all of the chain rule but the other's model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.guarding.flattening import flat, in_scale


def chain_rule(
    sent: PyTree, returned: PyTree, received: PyTree, gave: PyTree
) -> jax.Array:
    """How well a returned cotangent agrees with the answer's, over pairs of records.

    If the answer is `d = f(u)` record by record, and `d'` was given for it, what comes
    back is `u' = f'(u)^T d'`. So for two records of one batch, to first order,
    `u'_i . (u_j - u_i) = d'_i . (d_j - d_i)`. Both sides are known, and this is the
    cosine of the two over all pairs: 1 where `f` is affine, whatever the loss and the
    labels; near 0 where the returned cotangent is of another loss. It falls with the
    depth of `f` and with what is drawn or shared in it (dropout, BatchNorm).

    Args:
        sent: values `u` that the party sent, [records, ...] floating, or a pytree.
        returned: their cotangents `u'`, as they came; of the same shapes.
        received: the answers `d`, [records, ...] floating, or a pytree.
        gave: their cotangents `d'`, of the same shapes.

    Returns:
        The cosine, float32 []; 0 where `gave` is nothing and `returned` is something,
        and NaN where `returned` is zeros, or there are fewer than two records: that
        shows nothing.

    Raises:
        ValueError: if arrays do not fit each other.

    References:
        Erdogan et al., `SplitGuard <https://arxiv.org/abs/2108.09052>`_, 2022, compare
        cotangents of true and of false labels, which changes the training; this reads
        what crosses anyway. The statistic is ours.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.guarding import chain_rule
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> u, w, gave = (jax.random.normal(k, (8, 8)) for k in keys)
        >>> round(float(chain_rule(u, gave @ w.T, u @ w, gave)), 3)
        1.0
    """
    tables = {
        "sent": sent,
        "returned": returned,
        "received": received,
        "gave": gave,
    }
    rows = {name: flat(name, value) for name, value in tables.items()}
    for one, other in (("returned", "sent"), ("gave", "received")):
        if rows[one].shape != rows[other].shape:
            raise ValueError(
                f"`{one}` must be of the shapes of `{other}`, together "
                f"{rows[other].shape}, got {rows[one].shape}."
            )
    # An answer may be of another width, but not of other records.
    if len(rows["received"]) != len(rows["sent"]):
        raise ValueError(
            f"`received` must be of the {len(rows['sent'])} records of `sent`, got "
            f"{len(rows['received'])}."
        )
    theirs = _along(rows["sent"], rows["returned"])
    ours = _along(rows["received"], rows["gave"])
    both = jnp.sqrt((theirs**2).sum()) * jnp.sqrt((ours**2).sum())
    cosine = (theirs * ours).sum() / jnp.where(both > 0, both, 1.0)
    # Zeros train nobody. Something in answer to zeros is none of the client's loss.
    return jnp.where((theirs != 0).any(), cosine, jnp.nan)


def _along(value: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The derivative from each record towards each other one, [records, records]."""
    # A peer may send 1e38, of which a sum is infinite: in scale before the mean is taken.
    value, cotangent = in_scale(value), in_scale(cotangent)
    # The differences are the same from any origin; from the mean they lose fewer bits.
    value = in_scale(value - value.mean(0))
    products = jnp.matmul(cotangent, value.T, precision="highest")
    return in_scale(products - jnp.diagonal(products)[:, None])
