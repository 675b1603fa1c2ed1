"""How well records were reconstructed: beside what who sees nothing reaches, and who is worst off.

An MSE means nothing without the floor: the error of guessing the mean record. And a mean
over records hides those that can be read, so errors are kept by record.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.privacy.measures.bootstrap import interval
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.images import psnr, squared_error, ssim, window_of
from jsplit.privacy.measures.records import array_of, at_least

_NUMBERS = 1 << 24
"""So many numbers of images are compared at a time."""

_COMMON = 40
"""Powers of two up to which, and down to which, squares are left as they are."""


# No comparison of arrays by `==`, which has no truth value.
@dataclass(frozen=True, eq=False)
class Reconstruction:
    """How well records were reconstructed.

    Attributes:
        mse: mean squared error, over records.
        floor: that of who sees nothing and guesses a mean record.
        explained: the share of the floor that was found out, 1 - mse / floor: 0 is
            chance, 1 is exact.
        psnr: mean over records of the peak signal-to-noise ratio, dB; None without
            a range.
        ssim: mean structural similarity; None where records are no images.
        window: pixels of SSIM's window; None without.
        errors: MSE of each record, [records].
        floors: floor of each record, [records].

    Example:
        >>> import jax, numpy as np
        >>> from jsplit.privacy import reconstruction
        >>> x = np.random.default_rng(0).normal(size=(50, 6))
        >>> found = reconstruction(x, x + 0.1, jax.random.key(0))
        >>> round(found.mse.value, 4), found.psnr is None, found.explained.value > 0.98
        (0.01, True, True)
    """

    mse: Estimate
    floor: Estimate
    explained: Estimate
    psnr: Estimate | None
    ssim: Estimate | None
    window: int | None
    errors: np.ndarray
    floors: np.ndarray

    def worst(self, count: int = 10) -> np.ndarray:
        """Find the records that are given away most: those of the smallest error.

        Args:
            count: how many, or all if there are fewer.

        Returns:
            Their numbers, the most exposed first, int [count].

        Raises:
            ValueError: if `count` is not positive.

        Example:
            >>> import jax, numpy as np
            >>> from jsplit.privacy import reconstruction
            >>> x, off = np.zeros((3, 2)), np.array([[2.0], [1.0], [3.0]])
            >>> reconstruction(x, x + off, jax.random.key(0)).worst(2).tolist()
            [1, 0]
        """
        return np.argsort(self.errors, kind="stable")[: as_positive_int("count", count)]


def reconstruction(
    original: PyTree,
    guess: PyTree,
    key: jax.Array,
    *,
    data_range: tuple[float, float] | None = None,
    mean: PyTree | None = None,
    window: int | None = None,
    count: int = 1000,
) -> Reconstruction:
    """Measure how well records were reconstructed, with bootstrap intervals over records.

    PSNR and SSIM need `data_range`; SSIM is measured of images, [records, height,
    width] or with 1, 3 or 4 channels behind. Guesses are measured as they are: who
    knows the range should clip them first. As a metric:
    `jsplit.Metric("mse", lambda x, g: reconstruction(x, g, key).mse.value, ...)`.

    Args:
        original: [records, ...].
        guess: the same shape, of the same records in the same order.
        key: what the bootstrap draws from.
        data_range: the smallest and the largest value that the data can have.
        mean: what who sees nothing guesses, [...], as the mean of public records, or of
            each record, [records, ...]; by default the mean of all others.
        window: of SSIM, as of `ssim`.
        count: resamplings.

    Returns:
        The numbers, and errors by record.

    Raises:
        ValueError: if shapes differ, a record is not finite, there are fewer than
            2, or originals lie outside `data_range`.

    Example:
        >>> import jax
        >>> from jsplit.privacy import reconstruction
        >>> x = jax.random.uniform(jax.random.key(0), (40, 30))
        >>> found = reconstruction(x, 0.9 * x, jax.random.key(1), data_range=(0, 1))
        >>> found.mse.value < found.floor.value, found.psnr.value > 20
        (True, True)
    """
    x, y = array_of("original", original), array_of("guess", guess)
    at_least(len(x), 2, "a reconstruction")
    unit = _unit(x, y)
    errors = unit**2 * np.asarray(squared_error(x / unit, y / unit), np.float64)
    floors = unit**2 * np.asarray(_floors(x, mean, unit), np.float64)
    keys = jax.random.split(key, 5)

    def mean_over_records(values: np.ndarray, key: jax.Array) -> Estimate:
        ends = interval(_mean, [values], key, count)
        return Estimate(_mean(values), ends, len(values), "bootstrap")

    peak = similar = size = None
    if data_range is not None:
        decibels = np.asarray(psnr(x, y, data_range), np.float64)
        peak = mean_over_records(decibels, keys[3])
        if _are_images(x):
            size = window_of(x.shape, window)
            similar = mean_over_records(_ssim(x, y, data_range, size), keys[4])
    if window is not None and size is None:
        raise ValueError("`window` is of SSIM, which needs images and `data_range`.")
    explained = Estimate(
        _explained(errors, floors),
        interval(_explained, [errors, floors], keys[2], count),
        len(x),
        "bootstrap",
    )
    return Reconstruction(
        mean_over_records(errors, keys[0]),
        mean_over_records(floors, keys[1]),
        *(explained, peak, similar, size, errors, floors),
    )


def _unit(x: jax.Array, y: jax.Array) -> float:
    """A power of two in which the squares of no record are infinite, or all 0, in 32 bits."""
    largest = max(float(jnp.abs(x).max()), float(jnp.abs(y).max()))
    exponent = frexp(largest)[1]
    # Not above 2^100: by what XLA multiplies with, 1 / 2^128, is 0.
    return 1.0 if abs(exponent) <= _COMMON else 2.0 ** max(-100, min(exponent, 100))


def _floors(x: jax.Array, mean: PyTree | None, unit: float) -> jax.Array:
    """The error of each record if the mean record is guessed, in squares of a unit."""
    x = x / unit
    if mean is None:
        # The record itself is in the mean of all; without it, it is this much farther.
        others = (len(x) / (len(x) - 1)) ** 2
        about = jnp.broadcast_to(jnp.mean(x, axis=0), x.shape)
        return others * squared_error(x, about)
    # One record is an array without an axis of records, so that it is given one.
    given = np.asarray(mean)
    one = array_of("mean", given if given.ndim == x.ndim else given[None])
    if one.shape not in (x.shape, (1, *x.shape[1:])):
        raise ValueError(
            f"`mean` must be one record of shape {x.shape[1:]}, or one of each, got "
            f"{given.shape}."
        )
    return squared_error(x, jnp.broadcast_to(one / unit, x.shape))


def _ssim(
    x: jax.Array, y: jax.Array, data_range: tuple[float, float], size: int
) -> np.ndarray:
    # It makes some ten images of each: of all records at once that is too much memory.
    block = max(1, _NUMBERS * len(x) // x.size)
    found = [
        np.asarray(ssim(x[i : i + block], y[i : i + block], data_range, size))
        for i in range(0, len(x), block)
    ]
    return np.concatenate(found).astype(np.float64)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def _explained(errors: np.ndarray, floors: np.ndarray) -> float:
    """The share of the floor that was found out; 0 where there was nothing to find."""
    floor = floors.mean()
    return float(1 - errors.mean() / floor) if floor > 0 else 0.0


def _are_images(x: jax.Array) -> bool:
    channels = x.shape[3] if x.ndim == 4 else 1
    return x.ndim in (3, 4) and channels in (1, 3, 4)
