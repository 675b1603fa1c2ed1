"""How long parties wait for each other, as an agreement says it: for who is away, for who works."""

from __future__ import annotations

from collections.abc import Mapping
from sys import float_info

from jsplit.core.checks import shown

STALL = 3600.0
"""Seconds of work that a party may take for one step, if an agreement says nothing else.
The first compilation of a large model takes half of that."""


def check_seconds(found: Mapping[str, object]) -> None:
    """Refuse what is no time to wait.

    Args:
        found: the entries of an agreement.

    Raises:
        ValueError: naming the entry.
    """
    for name in ("patience", "stall"):
        seconds = found.get(name, STALL)
        # Written so that NaN is refused as well, which no comparison finds too small.
        number = seconds if isinstance(seconds, (int, float)) else 0.0
        # `True` is a number in Python, and never what somebody meant by seconds.
        # No number of Python's is too large for an integer, and these are used as floats.
        if isinstance(seconds, bool) or not 0 < number <= float_info.max:
            raise ValueError(
                f"`{name}` must be a positive number of seconds, got {shown(seconds)}."
            )
