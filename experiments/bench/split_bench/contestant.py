"""What SplitBench asks of every contestant of any system, and how one seed is scored.

A contestant trains from a seed, takes one pass for the clock, says what it costs, and what it
gives away. A part that it does not have is `None`, and its row is then absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score


@dataclass(frozen=True)
class Setting:
    """How long and on how much is trained; the same for all contestants of a data set.

    Attributes:
        data: a bundled data set, or the path of an `.npz` file.
        epochs: passes over the records, of the configurations.
        rounds: of the algorithms over clients, each a pass too.
        batch: records in a step; of each client, where there are many.
        limit: records at most, of the training and of the test part.
        clients: how many, where the file does not say whose records are whose.
        network: of the algorithms over clients.
        steps: of each attack; `None`: its own.
        blocks: of interleaved timing.
        dtype: of the configurations' weights, float32 or float64.
        kernels: of the configurations, as `jsplit.fused` has it.
    """

    data: str
    epochs: int = 15
    rounds: int = 15
    batch: int = 32
    limit: int | None = 5000
    clients: int = 5
    network: str = "small"
    steps: int | None = 200
    blocks: int = 5
    dtype: str = "float32"
    kernels: str = "fast"


class Contestant(NamedTuple):
    """One row of the table.

    Attributes:
        said: fields of every row of it: what and how much was trained.
        train: `train(seed) -> fields of a run`.
        start: `start() -> pass`, where `pass()` trains one pass over the records and waits.
        cost: fields of a cost, without seconds.
        leak: fields of a leak.
    """

    said: Mapping[str, str | int]
    train: Callable[[int], dict]
    start: Callable[[], Callable[[], None]] | None = None
    cost: Callable[[], dict] | None = None
    leak: Callable[[], dict] | None = None

    @property
    def title(self) -> str:
        """Its name, with its system where that is not jsplit."""
        system = self.said["system"]
        return f"{self.said['contestant']}" + (
            "" if system == "jsplit" else f", {system}"
        )


def score(logits: np.ndarray, label: np.ndarray) -> dict[str, float | None]:
    """Accuracy, and of two classes the area under the ROC curve; none of what diverged.

    Args:
        logits: [records, classes].
        label: [records].
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        return {"accuracy": None, "auc": None}
    right = float((logits.argmax(-1) == label).mean())
    both = logits.shape[-1] == 2 and len(np.unique(label)) == 2
    area = roc_auc_score(label, logits[:, 1] - logits[:, 0]) if both else None
    return {"accuracy": right, "auc": None if area is None else float(area)}
