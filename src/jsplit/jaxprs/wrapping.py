"""Whole numbers wrap around at the end of their bits: which products can be undone all the same.

Modulo a power of two a product with an odd number can be undone; each factor of 2 loses the
highest bit. Class numbers and tokens are taken to be below 2**24, and pixels to fill 8 bits.
"""

from __future__ import annotations

import numpy as np

_TOKENS = 24  # bits of class numbers and tokens
_WIDE = 2.0**20  # of what is added: `x + 1e30` has no bits of `x`


def lost_bits(factor: np.ndarray) -> int:
    """How many of the highest bits a product with whole numbers loses at most.

    Args:
        factor: the numbers, of which none may be 0.
    """
    numbers = np.abs(np.asarray(factor).astype(np.int64))
    if not numbers.size:
        return 0
    # The lowest bit that is set.
    return int(np.log2((numbers & -numbers).max(initial=1)))


def bears_factor(factor: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a product with whole numbers can be undone where they are not 0.

    Args:
        factor: the numbers.
        dtype: of the product.
    """
    own = np.asarray(factor)
    return bears_bits(lost_bits(own[own != 0]), dtype)


def bears_bits(lost: int, dtype: np.dtype) -> bool:
    """Whether whole numbers are the same ones without so many of their highest bits.

    Args:
        lost: how many.
        dtype: of the numbers.
    """
    bits = 8 * np.dtype(dtype).itemsize
    return lost <= bits - min(bits, _TOKENS)


def is_borne(numbers: np.ndarray, added: bool) -> bool:
    """Whether a sum or product with numbers of the code keeps all of the other one.

    Args:
        numbers: of the code.
        added: whether it is a sum.
    """
    if added:
        wide = numbers.dtype.kind == "f"
        return not wide or float(np.abs(numbers).max(initial=0.0)) <= _WIDE
    # An even number loses a bit; `proving` counts how many.
    whole = numbers.dtype.kind in "iu"
    return not whole or not lost_bits(numbers[numbers != 0])
