"""The arguments of `jsplit.party.fit` that need more than a look, checked before a run.

Weights of classes become weights of records, and what is compared becomes a `Monitor`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jsplit.core.checks import shown
from jsplit.core.trees import check_same_records
from jsplit.fitting.class_weights import ClassWeight, record_weights, together
from jsplit.fitting.history import VALIDATION
from jsplit.fitting.monitor import Monitor, as_monitor
from jsplit.fitting.plan import Hyperparams
from jsplit.fitting.tally import check_apart
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.epochs import Epochs
from jsplit.party.epoch_losses import OwnLosses
from jsplit.party.task import Data


def weighted_of(
    agreed: Agreement,
    data: Data | None,
    class_weight: ClassWeight | None,
    label: str,
) -> Data | None:
    """The data with the weights of classes."""
    if class_weight is None:
        return data
    if not agreed.weight:
        raise ValueError(
            "`class_weight` needs an agreement with `weight`, under which every party that "
            "has fields or losses gives how much each record counts."
        )
    if agreed.rotation is not None:
        raise ValueError(
            "`class_weight` is of one client's classes; where clients take turns, give "
            f"each record's weight in the field `{agreed.weight}` of `data`."
        )
    if not isinstance(data, Mapping):
        raise ValueError(
            f"`class_weight` is for `data` of fields by name, got {shown(data)}."
        )
    # Before the product, which no longer says whose its rows are.
    check_same_records(data, "field `{}` of `data`")
    own = data.get(agreed.weight)
    by_class = record_weights(class_weight, data, label)
    weight = together(None if own is None else np.asarray(own), by_class)
    return {**data, agreed.weight: weight}


def monitor_of(
    epochs: Epochs,
    party: str,
    column: str | None,
    mode: str | None,
    patience: int | None,
    min_delta: float,
) -> Monitor | None:
    """By what the party that decides compares epochs; `None` at others."""
    if party == epochs.decides:
        return as_monitor(column, mode, patience, min_delta, bool(epochs.validation))
    given = {"monitor": column, "mode": mode, "patience": patience}
    given["min_delta"] = min_delta or None
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"`{name}` is for `{epochs.decides}`, which decides for all as agreed; "
                f"`{party}` does as it is told."
            )
    return None


def check_columns(
    epochs: Epochs, monitor: Monitor, losses: OwnLosses, hyperparams: Hyperparams
) -> None:
    """Refuse columns that there will not be, before an epoch is trained."""
    found = losses.possible()
    own = {x.name for x in losses.topology.metrics if x.party == losses.party}
    check_apart(found, own, bool(epochs.validation), {*hyperparams})
    if epochs.validation:
        found |= {VALIDATION + n for n in found | own}
    known = found | {*hyperparams}
    asked = {"monitor": monitor.column, "tells` of `epochs": epochs.tells}
    for name, column in asked.items():
        if column and column not in known:
            raise ValueError(
                f"`{name}` must be one of {', '.join(sorted(known))}, got "
                f"{shown(column)}."
            )
