"""A loop over epochs around the step: data, measuring, stopping, checkpoints, watching."""

from jsplit.fitting.callbacks import Csv, Mlflow, Progress, TensorBoard, Wandb
from jsplit.fitting.history import History, Running
from jsplit.fitting.over_epochs import fit
from jsplit.fitting.records import Callback, Epoch, Fitted
from jsplit.fitting.schedules import by_epoch, steps_per_epoch

__all__ = [
    "Callback",
    "Csv",
    "Epoch",
    "Fitted",
    "History",
    "Mlflow",
    "Progress",
    "Running",
    "TensorBoard",
    "Wandb",
    "by_epoch",
    "fit",
    "steps_per_epoch",
]


def __dir__() -> list[str]:
    return [*__all__]
