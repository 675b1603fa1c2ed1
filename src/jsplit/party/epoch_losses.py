"""The mean losses of one party's steps in an epoch, as a loop in one process sums them.

A party sums what it computes: the objective is there only where all losses that count are.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from jsplit.core.base import Info, PartyState, TrainState
from jsplit.fitting.history import Running
from jsplit.fitting.tally import columns_of
from jsplit.topology.graph import Topology
from jsplit.training.losses import info_of
from jsplit.training.strengths import in_state

_COUNT = ""  # in the place of a column: the sum of what examples count


class OwnLosses:
    """What one party computes of the losses of a topology.

    Args:
        topology: with this party's losses.
        party: its role.
    """

    def __init__(self, topology: Topology, party: str):
        self.topology, self.party = topology, party
        counting = [x for x in topology.losses if x.weight]
        self.whole = all(x.party == party for x in counting)
        self.names = [x.name for x in topology.losses if x.party == party]

    def info(self, losses: Mapping[str, float], state: PartyState) -> Info | None:
        """The losses as `evaluate` tells them; `None` where the objective is not here."""
        if not self.whole:
            return None
        arrays = {n: jnp.asarray(x, float) for n, x in losses.items()}
        # As it is added up in one process, to the bit.
        own = TrainState({self.party: state})
        return info_of(self.topology, arrays, in_state(self.topology, own))

    def columns(
        self, losses: Mapping[str, float], state: PartyState
    ) -> dict[str, float]:
        """The losses by column of a history.

        Args:
            losses: by name, before their weights.
            state: of this party, which may hold weights of losses.
        """
        info = self.info(losses, state)
        if info is not None:
            found = columns_of(self.topology, info)
            return {n: float(x) for n, x in found.items()}
        # "loss" is the objective, which is not known here.
        return {_alone(n): x for n, x in losses.items()}

    def possible(self) -> set[str]:
        """The columns that there will be."""
        if not self.whole:
            return {_alone(n) for n in self.names}
        zeros = {name: jnp.float32(0) for name in self.names}
        return {*columns_of(self.topology, Info(jnp.float32(0), zeros))}


def _alone(name: str) -> str:
    return "loss_alone" if name == "loss" else name


def added(
    running: Running, columns: Mapping[str, float] | None, count: float
) -> Running:
    """An epoch so far, with one more step.

    Args:
        running: before it.
        columns: of the step; `None` of one that was left out.
        count: how much its examples count.
    """
    if columns is None:
        return running._replace(steps=running.steps + 1, skipped=running.skipped + 1)
    sums = dict(running.sums)
    sums[_COUNT] = sums.get(_COUNT, 0.0) + count
    for name, value in columns.items():
        # Of a batch in which nothing counts the loss may be anything.
        sums[name] = sums.get(name, 0.0) + (value * count if count else 0.0)
    return running._replace(steps=running.steps + 1, sums=sums)


def row_of(running: Running) -> dict[str, float | int | bool]:
    """The means over the examples of an epoch; NaN where none counts."""
    count = running.sums.get(_COUNT, 0.0)
    names = [n for n in running.sums if n != _COUNT]
    row: dict[str, float | int | bool] = {
        n: running.sums[n] / count if count else float("nan") for n in names
    }
    if running.skipped:
        row["skipped"] = running.skipped
    return row
