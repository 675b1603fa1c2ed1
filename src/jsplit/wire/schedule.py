"""In which steps each crossing is used: a value, by which sessions count frames.

Every client's wires are used in the steps of its turns, and what is handed over crosses
before the steps at which turns change. Without turns everything crosses in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jsplit.wire.rota import Away, Rota
from jsplit.wire.steps import Steps


@dataclass(frozen=True)
class Schedule:
    """When crossings are used, in the order of `Terms.crossings`.

    Attributes:
        rota: whose turn each step is.
        wires: how many crossings each client has in a step of its own; they come first,
            client by client.
        roles: how many crossings each pair of clients has for what is handed over; they
            come last.
    """

    rota: Rota
    wires: int
    roles: int

    def excluding(self, away: Away) -> Schedule:
        """The schedule of a run in which these clients were away."""
        if away == self.rota.away:
            # The same object, so that its tables are made once for all sessions and
            # epochs.
            return self
        return Schedule(self.rota.excluding(away), self.wires, self.roles)

    @cached_property
    def tables(self) -> tuple[Steps, ...]:
        """The steps in which each crossing is used."""
        tables: list[Steps] = []
        for steps in self.rota.steps_of:
            # All wires of a client share one table: with many clients there are
            # thousands.
            tables += [steps] * self.wires
        for handed in self.rota.handover_steps:
            tables += [Steps.of((step, step + 1) for step in handed)] * self.roles
        return tuple(tables)
