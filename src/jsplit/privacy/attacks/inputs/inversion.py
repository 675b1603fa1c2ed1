"""What an attack on inputs gives: a score, and what it took each record for, worst first.

A mean over records hides those that can be read, and a report shows their pictures. So the
reconstructions are kept beside the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.inputs.likeness import unlike
from jsplit.privacy.measures.reconstructed import Reconstruction, reconstruction
from jsplit.privacy.scores import Adversary, Budget, Score

Range = tuple[float, float]


# No comparison of arrays by `==`, which has no truth value.
@dataclass(frozen=True, eq=False)
class Inversion:
    """What an attack on inputs found.

    Attributes:
        score: how good it is over all records.
        reconstructed: what it took each record for, [records, ...].
        errors: of each record, [records]: its MSE, or the share of its tokens that
            are wrong.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import Adversary, Budget, Inversion, Score
        >>> rest = Adversary("server", "nothing"), Budget(0, 3, 0.1)
        >>> score = Score("decoder", "x", "MSE", 2, (1, 3), 4, 4, False, *rest)
        >>> found = Inversion(score, np.zeros((3, 5)), np.array([3.0, 1.0, 2.0]))
        >>> found.worst(2).tolist()
        [1, 2]
    """

    score: Score
    reconstructed: np.ndarray
    errors: np.ndarray

    def worst(self, count: int = 10) -> np.ndarray:
        """Find the records that are given away most: those of the smallest error.

        Args:
            count: how many, or all if there are fewer.

        Returns:
            Their numbers, the most exposed first, int [count].

        Raises:
            ValueError: if `count` is not positive.

        Example:
            >>> import numpy as np
            >>> from jsplit.privacy import Adversary, Budget, Inversion, Score
            >>> rest = Adversary("server", "nothing"), Budget(0, 2, 0.1)
            >>> score = Score("decoder", "x", "MSE", 2, (1, 3), 4, 4, False, *rest)
            >>> Inversion(score, np.zeros((2, 5)), np.array([3.0, 1.0])).worst()
            array([1, 0])
        """
        return np.argsort(self.errors, kind="stable")[: as_positive_int("count", count)]


def inverted(
    attack: str,
    target: str,
    adversary: Adversary,
    budget: Budget,
    record: jax.Array,
    guess: jax.Array,
    control: jax.Array,
    *,
    mean: jax.Array | None,
    data_range: Range | None,
    key: jax.Array,
    public: jax.Array | None = None,
    more: Mapping[str, float] | None = None,
) -> Inversion:
    """Measure guesses of records, and those of the control.

    Args:
        attack: its name.
        target: the name of the field.
        adversary: who attacks.
        budget: what it spent.
        record: the truth, [records, ...].
        guess: the same shape.
        control: guesses of the same attack where there is nothing to find.
        mean: what who sees nothing guesses, [...] or of each record, [records, ...];
            `None`: the mean of other records.
        data_range: the smallest and the largest value; guesses are clipped to it.
        key: what the bootstrap draws from.
        public: records that the attack learned from: the score is in doubt where they are
            not of the kind of `record`.
        more: other numbers.

    Returns:
        The score by MSE, with PSNR and SSIM where they are defined.
    """
    found = clipped(guess, data_range)
    images = _measured(record, found, key, data_range, mean)
    nothing = _measured(record, clipped(control, data_range), key, data_range, mean)
    beside = {"explained": images.explained.value}
    if images.psnr is not None:
        beside["PSNR"] = images.psnr.value
    if images.ssim is not None and nothing.ssim is not None:
        beside |= {"SSIM": images.ssim.value, "control SSIM": nothing.ssim.value}
    score = Score(
        attack,
        target,
        "MSE",
        images.mse.value,
        images.mse.interval,
        nothing.mse.value,
        images.floor.value,
        False,
        adversary,
        budget,
        beside | dict(more or {}),
        unlike(None if public is None else np.asarray(public), np.asarray(record)),
    )
    return Inversion(score, np.asarray(found), images.errors)


def clipped(guess: jax.Array, data_range: Range | None) -> jax.Array:
    """A guess within the range of data, if that is known."""
    return guess if data_range is None else guess.clip(*data_range)


def _measured(
    record: jax.Array,
    guess: jax.Array,
    key: jax.Array,
    data_range: Range | None,
    mean: jax.Array | None,
) -> Reconstruction:
    return reconstruction(record, guess, key, data_range=data_range, mean=mean)
