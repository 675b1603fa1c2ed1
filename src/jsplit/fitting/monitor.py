"""Which epoch is the best, and when there has been none better for too long.

Both are functions of the rows of a history, so a training that goes on decides as one that
was never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

import numpy as np

from jsplit.core.checks import as_positive_int, one_of, shown
from jsplit.fitting.history import VALIDATION, Row


class Monitor(NamedTuple):
    """By what epochs are compared.

    Attributes:
        column: of the history.
        sign: 1 where less is better, -1 where more is.
        patience: epochs without improvement after which a training ends; `None`: it
            never does.
        min_delta: what is less than that is no improvement to `patience`.
    """

    column: str
    sign: int
    patience: int | None
    min_delta: float

    @property
    def settings(self) -> dict[str, object]:
        """What must be the same when a training goes on."""
        return {"monitor": self.column, "mode": "min" if self.sign > 0 else "max"}

    def best(self, rows: Sequence[Row]) -> int | None:
        """The number of the best epoch, the first of several; `None` without any."""
        found: int | None = None
        for number, row in enumerate(rows):
            if found is None or self._gain(rows[found], row) > 0:
                found = number
        return found

    def worn_out(self, rows: Sequence[Row]) -> bool:
        """Whether the last `patience` epochs have brought no improvement."""
        if self.patience is None or not rows:
            return False
        base = 0
        for number, row in enumerate(rows):
            if self._gain(rows[base], row) > self.min_delta:
                base = number
        return len(rows) - 1 - base >= self.patience

    def _gain(self, old: Row, new: Row) -> float:
        """By how much a row is better than another."""
        before, now = (float(row[self.column]) for row in (old, new))
        # NaN is worse than any number, and none is better than another.
        if isnan(now):
            return 0.0
        return float("inf") if isnan(before) else self.sign * (before - now)

    def check(self, row: Row) -> None:
        """Refuse a column that a history does not have.

        Raises:
            ValueError: naming those that it has.
        """
        if self.column not in row:
            known = ", ".join(row)
            raise ValueError(
                f"`monitor` must be one of {known}, got {shown(self.column)}."
            )


def as_monitor(
    column: str | None,
    mode: str | None,
    patience: int | None,
    min_delta: float,
    validated: bool,
) -> Monitor:
    """Check the arguments of `jsplit.fit` by which epochs are compared.

    Args:
        column: to compare; by default the loss of the validation data.
        mode: "min" or "max"; needed for what is no loss.
        patience: in epochs.
        min_delta: what counts as an improvement.
        validated: whether there is validation data.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    usual = f"{VALIDATION}loss" if validated else "loss"
    column = usual if column is None else column
    if mode is None:
        # Whether more of it is better, a name does not say: an AUC or an error.
        if column not in ("loss", f"{VALIDATION}loss"):
            raise ValueError(
                f'`mode` must say whether less ("min") or more ("max") of '
                f"`{column}` is better."
            )
        mode = "min"
    one_of("mode", mode, ("min", "max"))
    if column.startswith(VALIDATION) and not validated:
        raise ValueError(f"`monitor` is `{column}`, and there is no `validation` data.")
    if patience is not None:
        patience = as_positive_int("patience", patience)
    # Written so that NaN is refused as well.
    if not isinstance(min_delta, int | float | np.number) or not min_delta >= 0:
        raise ValueError(f"`min_delta` must be at least 0, got {shown(min_delta)}.")
    return Monitor(column, 1 if mode == "min" else -1, patience, float(min_delta))
