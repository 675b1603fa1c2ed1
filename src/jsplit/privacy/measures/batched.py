"""Distance correlation of a whole set, batch by batch: biased, corrected, and of shuffled pairs.

The biased one means something only at a size of the batch and beside what shuffled
pairs give at that size, so the three come together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.privacy.measures.correlation import distance_correlation
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.records import at_least, flat, generator, paired
from jsplit.privacy.measures.student import mean_of


@dataclass(frozen=True)
class Dependence:
    """How far two values of the same records depend on each other.

    Attributes:
        biased: distance correlation, the mean over batches.
        corrected: bias-corrected; on the scale of the square, so it may be
            negative.
        shuffled: the biased one of pairs that do not belong together: what it
            is, at this size of the batch, where there is nothing.
        batch: records in a batch.
        exponent: of the distances.

    Example:
        >>> from jsplit.privacy import Dependence, Estimate
        >>> found = Estimate(0.93, (0.92, 0.94), 1024, "t over batches")
        >>> nothing = Estimate(0.002, (-0.003, 0.007), 1024, "t over batches")
        >>> print(Dependence(found, nothing, nothing, 128, 1.0).batch)
        128
    """

    biased: Estimate
    corrected: Estimate
    shuffled: Estimate
    batch: int
    exponent: float

    def __str__(self) -> str:
        return (
            f"distance correlation in batches of {self.batch}: {self.biased} "
            f"(shuffled pairs {self.shuffled.value:.3g}; its square, bias-corrected, "
            f"{self.corrected})"
        )


@partial(jax.jit, static_argnames="exponent")
def _of_batches(
    x: jax.Array, y: jax.Array, exponent: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Biased, corrected and shuffled of each batch, [batches]."""

    def one(pair: tuple[jax.Array, jax.Array]):
        x, y = pair
        return (
            distance_correlation(x, y, exponent=exponent),
            distance_correlation(x, y, corrected=True, exponent=exponent),
            # Records stand in random order, so the next one is a stranger.
            distance_correlation(x, jnp.roll(y, 1, axis=0), exponent=exponent),
        )

    # One after the other: a batch has matrices of its records squared.
    return jax.lax.map(one, (x, y))


def dependence(
    x: PyTree, y: PyTree, key: jax.Array, *, batch: int = 128, exponent: float = 1.0
) -> Dependence:
    """Measure the distance correlation of two values over a set, with intervals.

    Records are put into disjoint batches at random; each number is the mean
    over these, with Student's interval. So it is the interval of what a batch
    of this size gives on average. A bootstrap would be wrong here: a record
    drawn twice is a pair at a distance of 0. As a metric:
    `jsplit.Metric("dcor", lambda x, h: dependence(x, h, key).biased.value,
    "hospital", ["image", "smashed"])`.

    Args:
        x: [records, ...], or a pytree of such arrays, laid side by side.
        y: the same of the other value.
        key: what the batches are drawn from.
        batch: records in a batch, at least 4. What does not fill a batch is left out.
        exponent: of the distances, as of `distance_correlation`.

    Returns:
        The three numbers.

    Raises:
        ValueError: if records do not pair, one is not finite, there are fewer
            than two batches of them, or a setting is out of range.

    References:
        As of `distance_correlation`.

    Example:
        >>> import jax
        >>> from jsplit.privacy import dependence
        >>> one, two, three = jax.random.split(jax.random.key(0), 3)
        >>> x = jax.random.normal(one, (256, 16))
        >>> found = dependence(x, jax.random.normal(two, (256, 8)), three, batch=32)
        >>> found.biased.value > 0.6, abs(found.corrected.value) < 0.02
        (True, True)
    """
    x, y = flat("x", x), flat("y", y)
    paired("x", x, "y", y)
    if as_positive_int("batch", batch) < 4:
        raise ValueError(f"`batch` must be at least 4, got {batch}.")
    at_least(len(x), 2 * batch, f"a dependence over batches of {batch}")
    batches = len(x) // batch
    rows = generator(key).permutation(len(x))[: batches * batch]
    rows = rows.reshape(batches, batch)
    found = _of_batches(x[rows], y[rows], float(exponent))
    biased, corrected, shuffled = (
        mean_of(np.asarray(f), rows.size, "t over batches") for f in found
    )
    return Dependence(biased, corrected, shuffled, batch, float(exponent))
