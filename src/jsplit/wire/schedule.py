"""In which steps each crossing is used: a value, by which sessions count frames.

Every client's wires are used in the steps of its turns, and what is handed over crosses
before the steps at which turns change. Without turns everything crosses in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from jsplit.wire.rota import Away, Rota
from jsplit.wire.steps import NEVER, Steps


@dataclass(frozen=True)
class Schedule:
    """When crossings are used, in the order of `Terms.crossings`.

    Attributes:
        rota: whose turn each step is.
        wires: how many crossings each client has in a step of its own; they come first,
            client by client.
        players: by role that is handed over, who plays it, client by client. The
            crossings of what is handed over come last, by the client that takes it and
            then by role; whoever plays the role may be the one that gives.
    """

    rota: Rota
    wires: int
    players: tuple[tuple[int, ...], ...]

    def excluding(self, away: Away) -> Schedule:
        """The schedule of a run in which these clients were away."""
        if away == self.rota.away:
            # The same object, so that its tables are made once for all sessions and
            # epochs.
            return self
        return replace(self, rota=self.rota.excluding(away))

    def steps_of(self, crossing: int, sender: int) -> Steps:
        """The steps in which a crossing is used by one of those that may send on it.

        Args:
            crossing: by its place.
            sender: by its place among the parties.
        """
        first = self.rota.clients * self.wires
        if crossing < first:
            # All wires of a client share one table: with many clients there are
            # thousands.
            return self.rota.steps_of[crossing // self.wires]
        taker, role = divmod(crossing - first, len(self.players))
        giver = self._clients[role].get(sender)
        return NEVER if giver is None else self.rota.handed.get((giver, taker), NEVER)

    @cached_property
    def _clients(self) -> tuple[Mapping[int, int], ...]:
        """By role, of each party that plays it the client that it is of."""
        return tuple({p: c for c, p in enumerate(own)} for own in self.players)
