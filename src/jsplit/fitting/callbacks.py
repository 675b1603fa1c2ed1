"""Callbacks that watch a training: a bar, a file of rows, and what trackers of others take.

Each is a few lines over the row of an epoch, and imports its package when it starts.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

from jsplit.core.tables import Drawing
from jsplit.fitting.history import History
from jsplit.fitting.records import Epoch

# An object of another package's, as a bar or a writer.
_Foreign = Drawing


class Progress:
    """A bar over the epochs, with the last row beside it; needs the package rich.

    Args:
        epochs: how many there will be.

    Example:
        >>> import jsplit
        >>> callbacks = [jsplit.fitting.Progress(epochs=20)]
    """

    def __init__(self, epochs: int):
        self.epochs = epochs
        self._bar: _Foreign = None

    def on_start(self, history: History) -> None:
        """Draw the bar.

        Args:
            history: of the epochs that are done already.

        Raises:
            ModuleNotFoundError: if rich, an extra, is not installed.

        Example:
            >>> import jsplit
            >>> bar = jsplit.fitting.Progress(epochs=20)
        """
        self._bar = _package("rich.progress").Progress()
        self._bar.start()
        self._task = self._bar.add_task(
            "epochs", total=self.epochs, completed=len(history)
        )

    def on_epoch(self, epoch: Epoch) -> None:
        """Move the bar.

        Args:
            epoch: that is done.

        Example:
            >>> import jsplit
            >>> bar = jsplit.fitting.Progress(epochs=20)
        """
        numbers = " ".join(f"{n} {x:.4g}" for n, x in epoch.row.items())
        self._bar.update(
            self._task, completed=epoch.number + 1, description=f"epochs {numbers}"
        )

    def on_end(self, history: History) -> None:
        """Leave the terminal as it was.

        Args:
            history: of all epochs.

        Example:
            >>> import jsplit
            >>> bar = jsplit.fitting.Progress(epochs=20)
        """
        if self._bar is not None:
            self._bar.stop()


class Csv:
    """A file of comma-separated values, a line for each epoch, whole at any moment.

    Args:
        file: is written over; a training that goes on writes its earlier epochs again.

    Example:
        >>> import jsplit, pathlib, tempfile
        >>> from jsplit.fitting import Epoch, History
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "history.csv")
        ...     rows = ({"loss": 0.75}, {"loss": 0.5})
        ...     jsplit.fitting.Csv(file).on_start(History(rows, (1.0, 2.0)))
        ...     print(file.read_text(), end="")
        epoch,loss,seconds
        0,0.75,1.0
        1,0.5,2.0
    """

    def __init__(self, file: str | os.PathLike[str]):
        self.file = Path(file)

    def on_start(self, history: History) -> None:
        """Write the epochs that are done.

        Args:
            history: of these.

        Example:
            >>> import jsplit
            >>> written = jsplit.fitting.Csv("history.csv")
        """
        self._write(history)

    def on_epoch(self, epoch: Epoch) -> None:
        """Write all epochs so far.

        Args:
            epoch: that is done.

        Example:
            >>> import jsplit
            >>> written = jsplit.fitting.Csv("history.csv")
        """
        # All of them and not one line more: a column may be new, and an epoch that was
        # written before a kill comes again.
        self._write(epoch.history)

    def _write(self, history: History) -> None:
        temporary = self.file.with_name(self.file.name + ".tmp")
        with open(temporary, "w", newline="") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["epoch", *history.columns, "seconds"])
            for number, row in enumerate(history.rows):
                cells = [row.get(n, "") for n in history.columns]
                writer.writerow([number, *cells, history.seconds[number]])
        os.replace(temporary, self.file)


class TensorBoard:
    """Scalars by epoch for TensorBoard; needs the package tensorboardX.

    Args:
        folder: of the event files.

    Example:
        >>> import jsplit
        >>> callbacks = [jsplit.fitting.TensorBoard("results/board")]
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = folder
        self._writer: _Foreign = None

    def on_start(self, history: History) -> None:
        """Open a file of events.

        Args:
            history: of the epochs that are done already.

        Raises:
            ModuleNotFoundError: if tensorboardX, an extra, is not installed.

        Example:
            >>> import jsplit
            >>> board = jsplit.fitting.TensorBoard("results/board")
        """
        writer = _package("tensorboardX").SummaryWriter
        # What an earlier process has written of later epochs is no longer so.
        self._writer = writer(os.fspath(self.folder), purge_step=len(history))

    def on_epoch(self, epoch: Epoch) -> None:
        """Write the row.

        Args:
            epoch: that is done.

        Example:
            >>> import jsplit
            >>> board = jsplit.fitting.TensorBoard("results/board")
        """
        for name, value in epoch.row.items():
            self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def on_end(self, history: History) -> None:
        """Close the file.

        Args:
            history: of all epochs.

        Example:
            >>> import jsplit
            >>> board = jsplit.fitting.TensorBoard("results/board")
        """
        if self._writer is not None:
            self._writer.close()


class Mlflow:
    """Metrics by epoch for MLflow, in its active run: `with mlflow.start_run(): jsplit.fit(...)`.

    Example:
        >>> import jsplit
        >>> callbacks = [jsplit.fitting.Mlflow()]
    """

    def on_epoch(self, epoch: Epoch) -> None:
        """Log the row.

        Args:
            epoch: that is done.

        Raises:
            ModuleNotFoundError: if mlflow is not installed.

        Example:
            >>> import jsplit
            >>> logged = jsplit.fitting.Mlflow()
        """
        numbers = {name: float(value) for name, value in epoch.row.items()}
        _package("mlflow").log_metrics(numbers, step=epoch.number)


class WandbRun(Protocol):
    """What `wandb.init` gives, as far as it is used."""

    def log(self, data: Mapping[str, float | int | bool], step: int) -> object:
        """Log numbers of a step."""
        ...


class Wandb:
    """Metrics by epoch for Weights & Biases.

    Args:
        run: what `wandb.init(...)` gives.

    Example:
        >>> import jsplit
        >>> class Run:  # as wandb.init(project="x-rays") gives one
        ...     def log(self, data, step): ...
        >>> callbacks = [jsplit.fitting.Wandb(Run())]
    """

    def __init__(self, run: WandbRun):
        self.run = run

    def on_epoch(self, epoch: Epoch) -> None:
        """Log the row.

        Args:
            epoch: that is done.

        Example:
            >>> import jsplit
            >>> class Run:
            ...     def log(self, data, step): ...
            >>> logged = jsplit.fitting.Wandb(Run())
        """
        self.run.log(dict(epoch.row), step=epoch.number)


def _package(name: str) -> ModuleType:
    """A package that is no dependency of jsplit's.

    Raises:
        ModuleNotFoundError: naming the extra, if it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this callback needs the package {name.partition('.')[0]}, of the extra "
            "`jsplit[track]`.",
            name=error.name,
        ) from error
