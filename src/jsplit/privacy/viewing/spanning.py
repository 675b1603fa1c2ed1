"""Which numbers are told by some sums of them: those that the sums can be solved for.

Factors have the 24 bits of the code's constants. What can be solved for only by bits behind
these is not taken to be told: a product of two vectors in 32 bits has full rank by them.
"""

from __future__ import annotations

import numpy as np

_SMALLEST = 1e-5  # singular values below this part of the largest are rounding
_LARGEST = 1 << 22  # factors of which they are computed


def told(rows: np.ndarray) -> np.ndarray:
    """Which numbers follow from sums of them.

    Args:
        rows: the factors of each sum, [sums, numbers], finite.

    Returns:
        Of each number whether it does, bool [numbers].
    """
    count = rows.shape[1]
    if rows.size > _LARGEST or count * count > _LARGEST:
        return np.zeros(count, bool)
    lengths = np.linalg.norm(rows, axis=1)
    units = rows[lengths > 0] / lengths[lengths > 0, None]
    if len(units) < count:
        # So that the directions of which nothing is told are among the results.
        units = np.concatenate([units, np.zeros((count - len(units), count))])
    _, sizes, directions = np.linalg.svd(units, full_matrices=False)
    hidden = directions[sizes <= _SMALLEST * sizes[0]]
    return np.linalg.norm(hidden, axis=0) < 1e-6
