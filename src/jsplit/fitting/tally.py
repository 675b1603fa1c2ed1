"""From what steps tell to one row of a history: means over the examples of an epoch.

What a step tells stays on the device, which is not waited for; it is fetched some hundred steps
at a time, and summed in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Info, PyTree
from jsplit.core.checks import shown
from jsplit.core.trees import batch_of
from jsplit.fitting.history import VALIDATION, Running
from jsplit.fitting.monitor import Monitor
from jsplit.fitting.records import Piece, State, Told
from jsplit.populations.round import Round
from jsplit.topology.graph import Topology

_FETCHED = 256  # steps at a time: so many small arrays are held
_TOTAL = "loss"  # the column of the objective
_RATE = "learning_rate"  # the one hyperparameter that is shown without being asked for
_OWN = ("epoch", "seconds", "skipped")  # columns that no loss may be called as
_COUNT = ""  # in the place of a column: the sum of what examples count


def columns_of(topology: Topology, told: Told) -> dict[str, PyTree]:
    """The losses of a step or of a set by column: the objective is "loss".

    Args:
        topology: whose losses they are.
        told: its info.
    """
    found: dict[str, PyTree] = {_TOTAL: told.loss}
    counting = [x for x in topology.losses if x.weight]
    for name, value in told.losses.items():
        if name != _TOTAL:
            found[name] = value
        # A loss of that name that is not the whole objective keeps a column too.
        elif len(counting) > 1 or counting[0].name != name or counting[0].weight != 1:
            found[f"{name}_alone"] = value
    return found


def possible_columns(topology: Topology) -> set[str]:
    """The columns of the losses of a topology."""
    zeros = {x.name: jnp.float32(0) for x in topology.losses}
    return {*columns_of(topology, Info(jnp.float32(0), zeros))}


def check_column(
    monitor: Monitor, topology: Topology, validated: bool, more: set[str]
) -> None:
    """Refuse a column that there will not be, before an epoch is trained for nothing.

    Args:
        monitor: which column is compared.
        topology: whose losses and metrics are measured.
        validated: whether there is validation data.
        more: further columns, of hyperparameters.

    Raises:
        ValueError: naming those that there will be, or two of one name.
    """
    known = possible_columns(topology)
    metrics = {x.name for x in topology.metrics}
    check_apart(known, metrics, validated, more)
    if validated:
        known |= {VALIDATION + name for name in known | metrics}
    known |= more
    # A learning rate has one, if the optimizer keeps it: that shows in a state only.
    if monitor.column.startswith(_RATE):
        return
    if monitor.column not in known:
        raise ValueError(
            f"`monitor` must be one of {', '.join(sorted(known))}, got "
            f"{shown(monitor.column)}."
        )


def check_apart(
    losses: set[str], metrics: set[str], validated: bool, hyperparams: set[str]
) -> None:
    """Refuse two columns of one name, of which a history would have the last one alone.

    Args:
        losses: the columns of the losses.
        metrics: names of what is measured on validation data beside them.
        validated: whether there is validation data.
        hyperparams: by name, those that have a column.

    Raises:
        ValueError: naming the first.
    """
    measured = [*losses, *metrics] if validated else []
    # A table has these of itself; and a rate that an optimizer keeps.
    found = [*losses, *hyperparams, *_OWN, *({_RATE} - hyperparams)]
    found += [VALIDATION + name for name in measured]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(
            f"the history would have two columns `{twice[0]}`, as the topology names its "
            "losses and metrics: give one of them another name."
        )


def count_of(piece: Piece) -> float:
    """How much the examples of a step count together."""
    if isinstance(piece.batch, Round):
        taken = np.arange(piece.batch.weight.shape[1]) < piece.batch.steps[:, None]
        return float(np.sum(piece.batch.weight[taken], dtype=np.float64))
    if piece.weight is None:
        return float(batch_of(piece.batch))
    return float(np.sum(np.asarray(piece.weight), dtype=np.float64))


class Tally:
    """The sums of an epoch so far.

    Args:
        topology: whose losses are summed.
        begun: those of its first steps, where a training goes on.
    """

    def __init__(self, topology: Topology, begun: Running):
        self.topology = topology
        self.steps, self.skipped = begun.steps, begun.skipped
        self.sums = dict(begun.sums)
        self._held: list[tuple[dict[str, PyTree], float, Mapping[str, PyTree]]] = []

    def add(self, told: Told, count: float) -> None:
        """Add what a step tells, without waiting for it."""
        # Of a round the flags are of all its steps, of which some may be left out.
        finite = None if hasattr(told, "each") else told.finite
        flags = {} if finite is None else finite.flags
        self._held.append((columns_of(self.topology, told), count, flags))
        self.steps += 1
        if len(self._held) >= _FETCHED:
            self._fetch()

    def _fetch(self) -> None:
        held, self._held = jax.device_get(self._held), []
        for columns, count, flags in held:
            # A step that is left out under `nonfinite="skip"` has trained nothing, and
            # its loss may be NaN.
            if not all(np.all(x) for x in flags.values()):
                self.skipped += 1
                continue
            self.sums[_COUNT] = self.sums.get(_COUNT, 0.0) + count
            for name, value in columns.items():
                # Of a batch in which nothing counts the loss may be anything.
                term = float(value) * count if count else 0.0
                self.sums[name] = self.sums.get(name, 0.0) + term

    def running(self, digest: str) -> Running:
        """How far the epoch is, with all steps summed."""
        self._fetch()
        return Running(self.steps, dict(self.sums), self.skipped, digest)

    def row(self) -> dict[str, float | int | bool]:
        """The means over the examples of the epoch; NaN where none counts."""
        self._fetch()
        count = self.sums.get(_COUNT, 0.0)
        names = [name for name in self.sums if name != _COUNT] or [_TOTAL]
        row: dict[str, float | int | bool] = {
            name: self.sums[name] / count if count else float("nan") for name in names
        }
        if self.skipped:
            row["skipped"] = self.skipped
        return row


def hyperparams_of(
    state: State, given: Mapping[str, Callable[[int], ArrayLike]], epoch: int
) -> dict[str, float]:
    """The columns of the hyperparameters that an epoch was trained with.

    Args:
        state: after it. A learning rate in it, which `optax.inject_hyperparams` keeps,
            has a column, or one by party.
        given: by name, a function of the epoch: each has a column, but where it gives a
            number by client.
        epoch: its number.
    """
    set_by_hand = {n: _one_number(of_epoch(epoch)) for n, of_epoch in given.items()}
    columns = {n: x for n, x in set_by_hand.items() if x is not None}
    if _RATE in columns:
        return columns
    found: dict[str, float] = {}
    for party, own in state.parties.items():
        for x in jax.tree.leaves(own.optimizer, is_leaf=_has_hyperparams):
            rates = x.hyperparams if _has_hyperparams(x) else {}
            if _RATE in rates and (rate := _one_number(rates[_RATE])) is not None:
                found.setdefault(party, rate)
    if len({*found.values()}) == 1:
        return {**columns, _RATE: next(iter(found.values()))}
    return {**columns, **{f"{_RATE}.{party}": x for party, x in found.items()}}


def _has_hyperparams(x: object) -> bool:
    return hasattr(x, "hyperparams")


def _one_number(value: ArrayLike) -> float | None:
    """A number, or several that are equal, as those of clients; `None` of all else."""
    numbers = np.unique(np.asarray(value, np.float64))
    return float(numbers[0]) if len(numbers) == 1 else None
