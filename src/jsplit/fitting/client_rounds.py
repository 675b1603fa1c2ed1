"""Rounds as what is read in an epoch, and as what is measured after it.

An epoch of an algorithm over clients is round `epoch` of a population.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.federation import Federation
from jsplit.core.trees import as_arrays, as_weight, batch_of
from jsplit.fitting.pieces import Read
from jsplit.fitting.records import Piece
from jsplit.populations.partitions import everyone
from jsplit.populations.population import Population
from jsplit.populations.round import Round
from jsplit.populations.stored import is_stored


def on_device(fields: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
    """A data set as arrays that stay on the device from round to round."""
    given = dict(as_arrays(fields, "field `{}` of the data"))
    # What lies in files stays there, and a round reads what it needs of it.
    return jax.tree.map(lambda x: x if is_stored(x) else jnp.asarray(x), given)


@dataclass(frozen=True, eq=False)
class Rounds:
    """The rounds of a population.

    Attributes:
        fields: the data set, [records, ...].
        people: who has which records.
        weight: how much each record counts, [records, ...]; `None`: all alike.
        batch: records of a client's step.
    """

    fields: Mapping[str, PyTree]
    people: Population
    weight: np.ndarray | None
    batch: int

    def pieces(self, epoch: int) -> Iterator[Read]:
        """The one round that an epoch is."""
        yield partial(self._draw, epoch)

    def _draw(self, epoch: int) -> Piece:
        drawn = self.people.round(self.fields, epoch, batch=self.batch)
        return Piece(drawn if self.weight is None else drawn.counting(self.weight))


def as_rounds(
    fields: Mapping[str, PyTree], people: object, weight: PyTree, batch: int
) -> Rounds:
    """Check the data of an algorithm over clients.

    Raises:
        ValueError: if there is no population, or one of other records.
    """
    if not isinstance(people, Population):
        raise ValueError(
            "`population` must say which client has which records, as "
            "jsplit.population.iid gives it; or give `data` as a function of the epoch "
            f"that draws a round. Got {shown(people)}."
        )
    counts = None if weight is None else np.asarray(as_weight(weight))
    return Rounds(on_device(fields), people, counts, batch)


def validation_round(
    state: Federation, fields: Mapping[str, PyTree], batch: int
) -> Round:
    """A round in which each record of a set is measured once; by every client, where they differ.

    Args:
        state: of the clients.
        fields: the set, [records, ...].
        batch: records that are measured at a time.
    """
    clients = len(state.clients.names)
    drawn = everyone(batch_of(fields), clients).round(fields, 0, batch=batch)
    drawn = drawn._replace(names=state.clients.names)
    if any(
        jax.tree.leaves(getattr(state.parties[party], part))
        for party, part in state.clients.own
        if part in ("params", "state")
    ):
        return drawn
    # All have one model, so the first of them speaks for all.
    reads, weight, client, steps, share = (x[:1] for x in drawn[1:6])
    return drawn._replace(
        reads=reads, weight=weight, client=client, steps=steps, share=share
    )
