"""`marvell`: noise on the cotangents of two classes that makes them hardest to tell apart.

The label holder knows which record is of which class, so it can put the noise where the
classes differ; noise of the same power in all directions protects far less.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import shown
from jsplit.core.links import Own, stateless
from jsplit.core.strength import Strength
from jsplit.privacy.defences.noise_power import Classes, least_kl
from jsplit.privacy.defences.records import (
    arrays,
    checked_scale,
    norms,
    sent_as,
    vectors,
)
from jsplit.privacy.guarantees.mechanism import Mechanism


def marvell(
    scale: float | Strength, *, label: str = "label", positive: int = 1
) -> Link:
    """Add the noise to cotangents under which an attacker's AUC is bounded best.

    For each batch (with micro-batches, for each of these) the cotangents of
    both classes are taken for normal distributions, and the covariances of
    the noise are those that minimise the sum of both Kullback-Leibler
    divergences, of all whose expected squared norm, mean over the records,
    is at most `scale` times the squared distance of the means of the classes.
    The noise is unbiased, and secret.

    It is no differential privacy, and bounds the AUC of one batch under its
    model, not of an attacker who averages over steps. Records whose cotangent
    is 0, as those of weight 0, do not count in the statistics, and get noise
    like all others, or it would show that theirs is 0. In a batch of one class
    there is no difference to hide, but that it is of one class shows: as if the
    mean of the other class were 0, there is noise along the mean of this one.
    That last rule is ours, and not the paper's.

    Args:
        scale: power of the noise in units of the squared distance of the
            means; the paper tries 0.25 to 4. 0 sends what is. A
            `jsplit.Strength` can be set between steps.
        label: name of the sender's field with the class, [batch] or [batch, 1].
        positive: which class number is the positive class. All others must be
            one class: with more in the first batch (over the network, in the
            arrays that a party brings) nothing begins; with more in a later one
            the cotangents become NaN, which `nonfinite` reports.

    Returns:
        A secret `Link` for the cotangents: `links={"h": (None, marvell(4))}`.

    Raises:
        ValueError: if `scale` is negative or not finite, `label` or `positive` no
            name or number; in `init`, if the labels are of more than two classes, or
            no classes, as those of a regression; where a step is traced, if they
            are not one number a record.

    References:
        Li et al., `Label leakage and protection in two-party split learning
        <https://arxiv.org/abs/2102.08504>`_, 2022, section 4.2, theorem 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import marvell
        >>> link = marvell(4.0)
        >>> own = {"label": jnp.array([0, 1, 0, 1]), "marvell_scale": jnp.float32(4)}
        >>> g = jnp.array([[-1.0, 0.0], [1.0, 0.2], [-1.1, 0.1], [0.9, 0.0]])
        >>> sent, _ = link.encode((), g, jax.random.key(0), own)
        >>> sent.shape, link.reads, link.secret
        ((4, 2), ('label',), True)
    """
    scale = checked_scale("scale", scale)
    if not isinstance(label, str) or not label:
        raise ValueError(f"`label` must be the name of a field, got {shown(label)}.")
    if not isinstance(positive, int):
        raise ValueError(f"`positive` must be a class number, got {shown(positive)}.")

    def encode(value: PyTree, key: jax.Array, own: Own) -> PyTree:
        rows, power = vectors(value, "marvell"), own["marvell_scale"]
        # Where shapes alone are asked for there are no labels.
        if own[label] is None:
            return value
        noisy = rows + _noise(rows, _classes(own[label], len(rows)), power, key)
        return arrays(jnp.where(power > 0, noisy, rows), value)

    def check(fields: Own) -> None:
        classes = np.unique(np.asarray(fields.get(label, ())))
        others = int(np.sum(classes != positive))
        if others > 1:
            raise ValueError(
                f"`marvell` hides which of two classes a record is of, one of which is "
                f"`positive`, {positive}: beside it there are {others} numbers in "
                f"`{label}`. For more classes take `isotropic` or `label_response`; "
                "the labels of a regression have none."
            )

    def _classes(found: jax.Array, count: int) -> jax.Array:
        """1 for positive and 0 for negative records, [count]; NaN of several classes."""
        if found.size != count:
            raise ValueError(
                f"`marvell` needs one label a record, {count}; `{label}` is "
                f"{found.shape}."
            )
        found = found.reshape(count)
        is_positive = found == positive
        others = jnp.where(is_positive, found[jnp.argmin(is_positive)], found)
        several = jnp.any(others != others[0])
        return jnp.where(several, jnp.nan, is_positive.astype(jnp.float32))

    return stateless(
        encode,
        sent_as,
        reads=(label,),
        secret=True,
        strengths={"marvell_scale": scale},
        mechanism=Mechanism("marvell", secret=True),
        check=check,
    )


def _noise(
    rows: jax.Array, positive: jax.Array, scale: jax.Array, key: jax.Array
) -> jax.Array:
    """Noise for each record, [records, numbers].

    Args:
        rows: cotangents.
        positive: 1 or 0 by record.
        scale: [].
        key: secret.
    """
    sizes = norms(rows)
    # Cotangents are small, and their squares may be no numbers: in units of the largest.
    unit = jnp.max(sizes)
    rows = rows / jnp.where(unit > 0, unit, 1)
    counts = (sizes[:, 0] > 0).astype(rows.dtype)
    one, zero = counts * positive, counts * (1 - positive)
    (mean1, var1, n1), (mean0, var0, n0) = _moments(rows, one), _moments(rows, zero)
    # Of one class: the other has the same variance around 0.
    var1, var0 = jnp.where(n1 > 0, var1, var0), jnp.where(n0 > 0, var0, var1)
    both = (n1 > 0) & (n0 > 0)
    share = jnp.where(both, n1 / jnp.maximum(n1 + n0, 1), 0.5)
    difference = mean1 - mean0
    gap = jnp.sum(difference**2)
    classes = Classes(var0, var1, gap, share, rows.shape[1])
    power = least_kl(classes, scale * gap)
    along = positive * power.along_positive + (1 - positive) * power.along_negative
    across = positive * power.across_positive + (1 - positive) * power.across_negative
    direction = difference / jnp.where(gap > 0, jnp.sqrt(gap), 1)
    drawn = jax.random.normal(key, rows.shape, rows.dtype)
    # What lies along and what lies across the direction are independent.
    part = (drawn @ direction)[:, None] * direction
    noise = jnp.sqrt(along)[:, None] * part + jnp.sqrt(across)[:, None] * (drawn - part)
    return noise * unit


def _moments(
    rows: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean of those that count, the mean variance of a number, and how many."""
    many = jnp.sum(counts)
    by = jnp.maximum(many, 1)
    mean = counts @ rows / by
    variance = jnp.sum(counts[:, None] * (rows - mean) ** 2) / (by * rows.shape[1])
    return mean, variance, many
