"""A measured number: its value, a 95 % interval, of how many records, and how the interval is made.

A number of a few records says little of the next few, and no reader can see that from the
number. So what measures here gives no number without its interval.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number that was measured on records.

    Attributes:
        value: the number.
        interval: its ends, of 95 % confidence.
        records: how many records it was measured on.
        method: how the interval is made: "DeLong", "Wilson", "bootstrap".

    Example:
        >>> from jsplit.privacy import Estimate
        >>> print(Estimate(0.91, (0.874, 0.946), 200, "DeLong"))
        0.91 [0.874, 0.946] of 200 records
    """

    value: float
    interval: tuple[float, float]
    records: int
    method: str

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3g} [{low:.3g}, {high:.3g}] of {self.records} records"
