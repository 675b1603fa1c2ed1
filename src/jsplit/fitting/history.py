"""What a training was like, epoch by epoch: a table, a picture, and an array for each column.

It holds all that a loop needs to go on beside the state: what it has
measured, which epoch was the best, and how far the running one is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jsplit.core.html import Table, html_of
from jsplit.core.tables import Drawing, aligned, blank_figure, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, float | int | bool]
"""What was measured in one epoch, by column."""

VALIDATION = "val_"
"""Before the name of what was measured on the validation data."""

_BEST = "*"

# In a line: a wider figure is made so small on a page that nobody reads it.
_PANELS = 3


class Running(NamedTuple):
    """How far the running epoch is, when a loop is stopped in the middle of it.

    Attributes:
        steps: how many of its steps are done.
        sums: by column, the sum over these steps of what was measured, each
            times how much its examples count; and of these counts, as "".
        skipped: how many of them were left out, since they were not finite.
        digest: of what its first step read: whoever goes on must read the same.

    Example:
        >>> from jsplit.fitting import Running
        >>> Running().steps
        0
    """

    steps: int = 0
    sums: Mapping[str, float] = {}
    skipped: int = 0
    digest: str = ""


@dataclass(frozen=True)
class History:
    """What was measured in each epoch, and how the training ended.

    `history["val_auc"]` is a column as an array, [epochs]; `print(history)` a
    table; `history.plot()` a picture. Epochs are counted from 0.

    Attributes:
        rows: by epoch, what was measured, by column: "loss" is the mean of the
            objective over the epoch's steps, "val_loss" that of the validation data
            after it.
        seconds: by epoch, how long it took, with its validation. It is no part of
            `rows`, which are the same in every run.
        best: the best epoch by `monitor`; `None` before the first.
        monitor: the column by which epochs are compared.
        steps: how many steps were taken in all.
        stopped: why there are no more epochs: "patience", "callback",
            "interrupted" (by Ctrl-C), or "epochs", when all are done.
        running: how far the epoch after the last row is.

    Example:
        >>> from jsplit.fitting import History
        >>> rows = ({"loss": 0.7, "val_loss": 0.8}, {"loss": 0.5, "val_loss": 0.75})
        >>> history = History(rows, (2.0, 1.0), best=1, monitor="val_loss", steps=8)
        >>> history["val_loss"].tolist(), len(history)
        ([0.8, 0.75], 2)
        >>> print(history)
        epoch  loss  val_loss  seconds
        0       0.7       0.8      2.0
        1 *     0.5      0.75      1.0
        best: epoch 1 by val_loss
    """

    rows: tuple[Row, ...] = ()
    seconds: tuple[float, ...] = ()
    best: int | None = None
    monitor: str = "loss"
    steps: int = 0
    stopped: str = ""
    running: Running = Running()

    def __len__(self) -> int:
        return len(self.rows)

    def __bool__(self) -> bool:
        # Without epochs it is a history all the same.
        return True

    def __getitem__(self, column: str) -> np.ndarray:
        if column == "seconds":
            return np.array(self.seconds)
        if column not in self.columns:
            known = ", ".join(self.columns) or "none yet"
            raise KeyError(f"there is no column `{column}`; there are {known}.")
        return np.array([row.get(column, float("nan")) for row in self.rows])

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what was measured.

        Returns:
            In the order of the table, without "epoch" and "seconds".

        Example:
            >>> from jsplit.fitting import History
            >>> History(({"loss": 0.7, "auc": 0.5},)).columns
            ('loss', 'auc')
        """
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def plot(self) -> Figure:
        """Draw each quantity over the epochs, training and validation in one panel.

        Returns:
            A figure of Matplotlib, a panel for each quantity; a dotted line is at the
            best epoch. `figure.savefig("history.png")` writes it.

        Raises:
            ModuleNotFoundError: if Matplotlib, an extra, is not installed.

        Example:
            >>> from jsplit.fitting import History
            >>> figure = History(({"loss": 0.7, "val_loss": 0.8},)).plot()
            >>> [axes.get_title() for axes in figure.axes]
            ['loss']
        """
        # A column of training and its twin of validation share a panel.
        panels = list(dict.fromkeys(n.removeprefix(VALIDATION) for n in self.columns))
        count = max(len(panels), 1)
        columns = min(count, _PANELS)
        lines = -(-count // columns)
        drawn = blank_figure((3.4 * columns + 0.6, 3.0 * lines), constrained=True)
        grid: Drawing = drawn.subplots(lines, columns, squeeze=False).ravel()
        for axes, name in zip(grid, panels, strict=False):
            self._draw(axes, name)
        for axes in grid[count:]:
            axes.remove()
        return drawn

    def _draw(self, axes: Drawing, name: str) -> None:
        epochs = np.arange(len(self))
        twins = {name: "training", VALIDATION + name: "validation"}
        for (column, label), colour in zip(
            twins.items(), ("#0072B2", "#E69F00"), strict=True
        ):
            if column in self.columns:
                # Markers, since a line through one epoch would not be seen.
                axes.plot(
                    epochs, self[column], marker="o", ms=3, color=colour, label=label
                )
        if self.best is not None:
            axes.axvline(self.best, color="#9A9A9A", ls=":", lw=1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epoch", fontsize=8)
        whole_numbers(axes.xaxis)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """The heads of the table, and its cells."""
        head = ["epoch", *self.columns, *(["seconds"] if self.seconds else [])]
        cells: list[list[str]] = []
        for number, row in enumerate(self.rows):
            mark = f" {_BEST}" if number == self.best else ""
            values = [_text(row.get(n)) for n in self.columns]
            took = [f"{self.seconds[number]:.1f}"] if self.seconds else []
            cells.append([f"{number}{mark}", *values, *took])
        return head, cells

    def _ending(self) -> str:
        best = [] if self.best is None else [f"epoch {self.best} by {self.monitor}"]
        words = [f"best: {x}" for x in best]
        words += [f"stopped: {self.stopped}"] if self.stopped else []
        if self.running.steps:
            words.append(f"{self.running.steps} steps into epoch {len(self)}")
        return "; ".join(words)

    def __str__(self) -> str:
        lines = aligned(*self._cells())
        ending = self._ending()
        return "\n".join([*lines, ending] if ending else lines)

    def _repr_html_(self) -> str:
        return html_of([Table(*self._cells())], self._ending())


def _text(value: float | int | bool | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
