"""The record of a value that came over a cut as it went over one before it."""

from __future__ import annotations

from typing import NamedTuple


class Handed(NamedTuple):
    """A value that a segment reads of a cut, and that the segment before only handed on.

    Who made it may be the party that reads it, as in a U shape. Then it stays there.

    Attributes:
        input: the cut.
        key: its key in the value of that cut.
        before: the cuts that held it before, the nearest first, and where in each:
            the key there, `""` of an array alone.
        floats: whether it is of a floating dtype, and so may have a cotangent.
        only: whether the segment before does nothing else with it.
    """

    input: str
    key: str
    before: tuple[tuple[str, str], ...]
    floats: bool
    only: bool
