"""Mutual information of two numbers a record, estimated from nearest neighbours.

In nats, whatever the form of the dependence. Of numbers, not of images: the error of such
an estimate grows with their dimensions. For vectors and classes there is a lower bound,
`information_bound`.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.records import at_least, generator, host_array, paired
from jsplit.privacy.measures.student import mean_of

PARTS = 10
"""Into so many parts records are divided for the interval."""

_BLOCK = 256  # records whose distances to all others are looked at together
_LEAST = 40
"""So many records are in a part at least."""


def mutual_information(
    x: PyTree, y: PyTree, key: jax.Array, neighbours: int = 3
) -> Estimate:
    """Estimate the mutual information of two numbers of each record, in nats.

    By the distances to nearest neighbours (Kraskov, Stögbauer and Grassberger,
    algorithm 1), of ranks: they do not depend on the scales of the two. **It is an
    estimate and no bound**: it is too small where the dependence is strong, as
    more than about half the logarithm of the number of records cannot be seen;
    independent numbers give 0 on average, and less than 0 half of the time. The
    interval is from how much ten disjoint parts of the records differ, shrunk
    as a variance shrinks with records; a bootstrap would be wrong, as a record
    drawn twice is its own nearest neighbour.

    Memory is that of the records squared times a few bytes for a block at a
    time; time grows with the square: 0.1 s for 2,000 records on one core.

    Args:
        x: [records] or [records, 1], numbers that seldom repeat.
        y: the same.
        key: what the parts are drawn from.
        neighbours: which neighbour is looked at; more vary less and are blurred.

    Returns:
        The information in nats, and its interval; divided by log 2 it is in bits.

    Raises:
        ValueError: if they are no single numbers, do not pair, are fewer than 400,
            or so many repeat that neighbours are at a distance of 0: of classes
            take `information_bound`.

    References:
        Kraskov, Stögbauer and Grassberger, `Estimating mutual information
        <https://arxiv.org/abs/cond-mat/0305641>`_, 2004, equation 8; the interval:
        Holmes and Nemenman, `Estimation of mutual information for real-valued data
        with error bars and controlled bias <https://arxiv.org/abs/1903.09280>`_,
        2019; what it cannot see: Gao, Ver Steeg and Galstyan, `Efficient estimation
        of mutual information for strongly dependent variables
        <https://arxiv.org/abs/1411.2003>`_, 2015.

    Example:
        >>> import jax, numpy as np
        >>> from jsplit.privacy import mutual_information
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 500))
        >>> found = mutual_information(x, 0.8 * x + 0.6 * noise, jax.random.key(0))
        >>> exact = -0.5 * float(np.log(1 - 0.8**2))
        >>> found.interval[0] < exact < found.interval[1]
        True
    """
    neighbours = as_positive_int("neighbours", neighbours)
    a, b = _numbers("x", x), _numbers("y", y)
    paired("x", a, "y", b)
    size = len(a)
    at_least(size, PARTS * _LEAST, "a mutual information with its interval")
    if neighbours >= _LEAST:
        raise ValueError(f"`neighbours` must be below {_LEAST}, got {neighbours}.")
    whole = _by_neighbours(a, b, neighbours)
    rows = generator(key).permutation(size)
    each = size // PARTS
    parts = rows[: PARTS * each].reshape(PARTS, each)
    spread = mean_of(
        np.array([_by_neighbours(a[part], b[part], neighbours) for part in parts]),
        size,
        "",
    )
    # The mean of the parts has the variance of the whole, and more bias.
    reach = (spread.interval[1] - spread.value) * sqrt(PARTS * each / size)
    return Estimate(whole, (whole - reach, whole + reach), size, "t over parts")


def _numbers(name: str, x: PyTree) -> np.ndarray:
    found = host_array(name, x)
    if found.size != len(found):
        raise ValueError(
            f"`{name}` must have one number for each record, got {shown(found)}; for "
            "vectors see `information_bound`."
        )
    return found.reshape(-1)


def _by_neighbours(x: np.ndarray, y: np.ndarray, neighbours: int) -> float:
    """The estimate, of ranks."""
    x, y = _normal(x), _normal(y)
    size, total, at_zero = len(x), 0.0, 0
    # Digamma of 1, 2, ... up to a constant, which cancels: a sum of reciprocals.
    digamma = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, size))])
    # In blocks: all pairs at once would be the records squared.
    for start in range(0, size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        by_x = np.abs(x[rows, None] - x[None])
        by_y = np.abs(y[rows, None] - y[None])
        # The nearest of all is the record itself, at 0.
        radius = np.partition(np.maximum(by_x, by_y), neighbours, axis=1)[:, neighbours]
        at_zero += int((radius == 0).sum())
        for apart in (by_x, by_y):
            # Strictly nearer, the record itself included: n + 1 of equation 8.
            inside = (apart < radius[:, None]).sum(1)
            total += digamma[np.maximum(inside, 1) - 1].sum()
    if at_zero:
        raise ValueError(
            f"{at_zero} of {size} records have neighbours at a distance of 0 in both "
            "`x` and `y`; mutual information is estimated of numbers that seldom "
            "repeat, and of classes by `information_bound`."
        )
    return float(digamma[size - 1] + digamma[neighbours - 1] - total / size)


def _normal(x: np.ndarray) -> np.ndarray:
    """Ranks as a normal variable would have them; equal numbers keep their mean rank."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    middle = (len(x) + 1) / 2
    # Of the lower half, and the other with its sign turned: distances are then the
    # same to the last digit if an order is reversed, and so are all counts.
    lower = [
        NormalDist().inv_cdf((min(r, 2 * middle - r) - 0.5) / len(x)) for r in ranks
    ]
    return (np.sign(middle - ranks) * np.array(lower))[place]
