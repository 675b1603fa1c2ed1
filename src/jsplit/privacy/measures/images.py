"""Errors of reconstructed records, one number for each: MSE, PSNR and SSIM.

By record and not over all of them: who is given away is a record, and a mean over
patients says nothing of the one whose picture can be read.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.typed_jax import is_traced
from jsplit.privacy.measures.records import array_of

WINDOW = 11
"""How many pixels wide the window of SSIM is, where images are as wide."""


def squared_error(original: PyTree, guess: PyTree) -> jax.Array:
    """Compute the mean squared error of each record. Pure, with a gradient.

    Args:
        original: [records, ...].
        guess: the same shape.

    Returns:
        float [records].

    Raises:
        ValueError: if shapes differ, or a record is not finite.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import squared_error
        >>> squared_error(np.zeros((2, 3)), np.array([[1, 1, 1], [0, 0, 3]])).tolist()
        [1.0, 3.0]
    """
    x, y = _pair(original, guess)
    return jnp.mean((x - y).reshape(len(x), -1) ** 2, axis=1)


def psnr(original: PyTree, guess: PyTree, data_range: tuple[float, float]) -> jax.Array:
    """Compute the peak signal-to-noise ratio of each record, in decibels.

    Args:
        original: [records, ...].
        guess: the same shape.
        data_range: the smallest and the largest value that the data can have, as
            `(0, 1)`; of `(-1, 1)` the same error is 6 dB more.

    Returns:
        float [records]; infinite where a record is exact.

    Raises:
        ValueError: if shapes differ, `data_range` is no range, or originals lie
            outside it.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import psnr
        >>> x = np.zeros((1, 4, 4))
        >>> print(round(float(psnr(x, x + 0.1, (0, 1))[0]), 3))
        20.0
    """
    low, high = within(original, data_range)
    return 10 * jnp.log10((high - low) ** 2 / squared_error(original, guess))


def ssim(
    original: PyTree,
    guess: PyTree,
    data_range: tuple[float, float],
    window: int | None = None,
) -> jax.Array:
    """Compute the structural similarity of each image, by dm-pix.

    Images are brought to 0 to 1 first, so it is the same for data in `(-1, 1)`.
    Of several channels it is the mean. Pure, with a gradient.

    Args:
        original: [records, height, width] or [records, height, width, channels].
        guess: the same shape.
        data_range: the smallest and the largest value that the data can have.
        window: pixels of the window, odd; 11, as published, or for smaller images
            the largest that fits: then it compares with no published number.

    Returns:
        float [records], at most 1, which means equal.

    Raises:
        ValueError: if they are no images of one shape, originals lie outside
            `data_range`, or `window` does not fit.

    References:
        Wang, Bovik, Sheikh and Simoncelli, `Image quality assessment: from error
        visibility to structural similarity
        <https://doi.org/10.1109/TIP.2003.819861>`_, 2004.

    Example:
        >>> import jax
        >>> from jsplit.privacy import ssim
        >>> x = jax.random.uniform(jax.random.key(0), (2, 16, 16))
        >>> ssim(x, x, (0, 1)).round(3).tolist()
        [1.0, 1.0]
    """
    # Not at the top: who measures no image need not have it.
    import dm_pix

    low, high = within(original, data_range)
    x, y = _pair(original, guess)
    if x.ndim not in (3, 4):
        raise ValueError(
            "`original` must be [records, height, width] or have channels behind, got "
            f"{shown(x)}."
        )
    size = window_of(x.shape, window)
    if x.ndim == 3:
        x, y = x[..., None], y[..., None]
    x, y = ((z - low) / (high - low) for z in (x, y))
    found = dm_pix.ssim(x, y, max_val=1.0, filter_size=size)
    return jnp.asarray(found)


def window_of(shape: tuple[int, ...], window: int | None) -> int:
    """The window of SSIM: that given, or 11 or what fits, checked.

    Args:
        shape: [records, height, width, ...].
        window: what was given.

    Returns:
        An odd number of pixels.

    Raises:
        ValueError: if it is even, or larger than the images.
    """
    smallest = min(shape[1:3])
    if window is None:
        # An even window has no pixel in its middle.
        return min(WINDOW, smallest - 1 + smallest % 2)
    if as_positive_int("window", window) % 2 == 0 or window > smallest:
        raise ValueError(
            f"`window` must be odd and at most {smallest} pixels, got {window}."
        )
    return window


def within(original: PyTree, data_range: tuple[float, float]) -> tuple[float, float]:
    """The range of data, checked against the data: a wrong one would give wrong decibels.

    Args:
        original: [records, ...].
        data_range: the smallest and the largest value.

    Returns:
        Both as floats.

    Raises:
        ValueError: if it is no range, or values lie outside it.
    """
    low, high = ends(data_range)
    x = array_of("original", original)
    if not is_traced(x):
        count = int(((x < low) | (x > high)).sum())
        if count:
            raise ValueError(
                f"`original` has {count} of {x.size} values outside `data_range`, "
                f"({low:g}, {high:g})."
            )
    return low, high


def ends(data_range: tuple[float, float]) -> tuple[float, float]:
    """The two ends of a range as floats.

    Raises:
        ValueError: if it is no range.
    """
    try:
        low, high = map(float, data_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (low < high and np.isfinite(high - low)):
        raise ValueError(
            "`data_range` must be the smallest and the largest value of the data, as "
            f"(0, 1), got {shown(data_range)}."
        )
    return low, high


def _pair(original: PyTree, guess: PyTree) -> tuple[jax.Array, jax.Array]:
    x, y = array_of("original", original), array_of("guess", guess)
    # Before anything is broadcast: one image against all would be a number too.
    if x.shape != y.shape:
        raise ValueError(
            f"`guess` must have the shape of `original`, {x.shape}, got {y.shape}."
        )
    return x, y
