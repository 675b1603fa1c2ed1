"""Pictures of reconstructions beside the originals, as PNG, where the caller asks for them.

The only thing in a report that holds values of records, so nothing here runs unasked.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A record and what an attack took it for.

    Attributes:
        error: mean squared error of this record.
        original: a PNG, in base64.
        reconstruction: the same.

    Example:
        >>> from jsplit.privacy import Picture
        >>> Picture(0.01, "iVBORw0...", "iVBORw0...").error
        0.01
    """

    error: float
    original: str
    reconstruction: str


def worst(truth: np.ndarray, guess: np.ndarray, count: int) -> tuple[Picture, ...]:
    """The records that are given away most, as pictures.

    Args:
        truth: the records, [records, ...].
        guess: what they were taken for, the same shape.
        count: how many pictures at most.

    Returns:
        Them, the smallest error first; none if a record is no picture: [high, wide] or
        [high, wide, 1 or 3].
    """
    truth, guess = np.asarray(truth, float), np.asarray(guess, float)
    shape = truth.shape[1:]
    drawable = len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))
    if not drawable or not count or truth.shape != guess.shape:
        return ()
    errors = ((truth - guess) ** 2).reshape(len(truth), -1).mean(1)
    # One scale for all, so that what looks alike is alike.
    low, high = truth.min(), truth.max()
    return tuple(
        Picture(float(errors[i]), *(png(x[i], low, high) for x in (truth, guess)))
        for i in np.argsort(errors, kind="stable")[:count]
    )


def png(x: np.ndarray, low: float, high: float) -> str:
    """One picture as a PNG in base64.

    Args:
        x: [high, wide] or [high, wide, 1 or 3].
        low: what is black.
        high: what is white.

    Returns:
        ASCII.
    """
    # Of the extra `draw`, which whoever asks for no picture does not need.
    from matplotlib.image import imsave

    x = x if x.ndim == 3 else x[..., None]
    scaled = (x - low) / (high - low if high > low else 1.0)
    pixels = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    file = BytesIO()
    # Colours as they are: of one channel all three are alike.
    imsave(file, np.broadcast_to(pixels, (*pixels.shape[:2], 3)), format="png")
    return b64encode(file.getvalue()).decode()
