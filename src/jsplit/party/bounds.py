"""How large values may be that come from others, where their receiver says so.

It is this party's own defence, of which the others need not know. A bound is on the L2
norm of what one record has of a value, so it does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from sys import float_info

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown


class OverBound(ValueError):
    """A value came that is larger than this party takes; it names the sender."""


def checked_bounds(given: object, names: Iterable[str]) -> dict[str, float]:
    """The bounds that a party gives, after they were looked at.

    Args:
        given: by the name of a value, a number.
        names: of all that the party receives.

    Raises:
        ValueError: naming `bound`, and what it may name.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f"`bound` must be a dictionary by value, got {type(given).__name__}."
        )
    known, found = sorted({*names}), {}
    for name, most in given.items():
        if name not in known:
            raise ValueError(
                f"`bound` names `{name}`; this party receives "
                f"{', '.join(known) or 'nothing'}."
            )
        number = isinstance(most, (int, float)) and not isinstance(most, bool)
        # NaN is not larger than 0 either.
        # An integer may be too large for a float, and infinity bounds nothing.
        if not (number and (0 < most <= float_info.max or most == inf)):
            raise ValueError(
                f"`bound` of `{name}` must be a positive number, got {shown(most)}."
            )
        found[name] = float(most)
    return found


def check_norm(
    most: float, size: int | None, value: PyTree, sent: Callable[[], str], party: str
) -> float:
    """Refuse a value with a record of a larger norm; gives the largest norm.

    Args:
        most: the largest norm.
        size: how many records it is of; `None`: it is one thing as a whole.
        value: as its receiver reads it.
        sent: gives who sent what, in words.
        party: which receives it.

    Raises:
        OverBound: naming the sender, the value and the bound; of the value no more
            than its magnitude.
    """
    found = largest_norm(jax.tree.leaves(value), size)
    if not found <= most:
        per = "" if size is None else " of a record"
        raise OverBound(
            f"{sent()} with a norm{per} of about {found:.0e}; `bound` of `{party}` is "
            f"{most:g}."
        )
    return found


def largest_norm(arrays: Sequence[PyTree], size: int | None = None) -> float:
    """The largest L2 norm of a record of some arrays.

    Args:
        arrays: of a value.
        size: how many records there are; `None`: all of it counts as one.

    Returns:
        The norm, computed in 64 bits, where the square of 3e38 is finite.
    """
    squares = np.zeros(size or 1)
    for x in arrays:
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            continue
        array = np.asarray(x)
        if array.dtype.kind == "c":
            array = np.abs(array)
        # What has no axis of records is part of each of them.
        each = size is not None and array.ndim > 0 and len(array) == size
        rows = array.reshape(len(array) if each else 1, -1).astype(np.float64)
        # One pass, without the squares of a whole batch in memory.
        squares += np.einsum("ij,ij->i", rows, rows)
    return float(np.sqrt(squares.max(initial=0.0)))
