"""`smallest_batch`: a label holder that answers for few records only together with others.

Of few records cotangents say much of each label; of one they are its label.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import as_positive_int
from jsplit.core.links import stateless
from jsplit.privacy.defences.records import sent_as


def smallest_batch(records: int) -> Link:
    """Send no cotangent of a batch that has fewer records than these.

    A batch (with micro-batches each of these) of fewer is refused where its
    step is traced, at the party that would send: over the network before it
    has sent anything. Records may also count for nothing, by a weight of 0 as
    those that fill up a batch; they are told by their cotangent, which is
    0. If fewer than `records` have another, zeros are sent in the place of
    all, so nobody learns from that batch beyond who sends; its loss is
    reported as ever.

    It hides nothing of larger batches and is no differential privacy; it goes
    before noise: `jsplit.chain(smallest_batch(32), marvell(4))`.

    Args:
        records: how many there must be, at least 1.

    Returns:
        A `Link` for the cotangents: `links={"h": (None, smallest_batch(32))}`.
        With `jsplit.compress.register("smallest_batch", smallest_batch)` an
        agreement can say it.

    Raises:
        ValueError: if `records` is no positive integer; where a step is traced, if the
            batch is smaller.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import smallest_batch
        >>> link = smallest_batch(8)
        >>> link.encode((), jnp.ones((4, 3)), jax.random.key(0))
        Traceback (most recent call last):
        ValueError: `smallest_batch(8)` refuses to send cotangents of a batch of 4 records.
    """
    least = as_positive_int("records", records)

    def encode(value: PyTree, key: jax.Array) -> PyTree:
        leaves = jax.tree.leaves(value)
        sizes = [len(x) if x.ndim else 1 for x in leaves]
        if leaves and (size := min(sizes)) < least:
            raise ValueError(
                f"`smallest_batch({least})` refuses to send cotangents of a batch of "
                f"{size} records."
            )
        if not leaves:
            return value
        # A NaN is not 0 either, and must not be hidden.
        counts = sum(jnp.any(x != 0, axis=tuple(range(1, x.ndim))) for x in leaves)
        enough = jnp.sum(counts > 0) >= least
        return jax.tree.map(lambda x: jnp.where(enough, x, jnp.zeros_like(x)), value)

    return stateless(encode, sent_as)
