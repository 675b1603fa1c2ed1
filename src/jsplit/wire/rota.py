"""Whose turn each step is: clients in an order that repeats, but for those away.

Here a client is a number and a role has no name: this is the arithmetic of turns, which
every party, and every session of the protocol, must get the same from the same
agreement. Names are in `jsplit.party.contract.turns`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle

from jsplit.wire.steps import EVERY_STEP, Steps

Away = tuple[tuple[int, tuple[int, ...]], ...]
"""From which step on which clients were away, where a run goes on without some:
`((step, clients), ...)`.
"""


def away_since(away: Away, client: int | None, step: int) -> int:
    """The step from which on a client was away until `step`, `step` if it was there.

    Args:
        away: who was away from which step on.
        client: by its place; `None` is never away.
        step: before which all decisions count.
    """
    since = step
    # Backwards through all decisions in a row that left the client out.
    for begin, gone in reversed([entry for entry in away if entry[0] < step]):
        if client not in gone:
            break
        since = begin
    return since


@dataclass(frozen=True)
class Rota:
    """The turns of a run.

    Attributes:
        clients: how many there are.
        order: `(client, steps)`, taken over and over until all steps are done.
        steps: of the run.
        hands_over: whether what a client has learned goes to the next, and in the end
            to all.
        away: who was away from which step on.
        every: where all take what was learned after so many steps, and not after the
            last one alone; turns end there. It is handed over within the step before.
    """

    clients: int
    order: tuple[tuple[int, int], ...]
    steps: int
    hands_over: bool = False
    away: Away = ()
    every: int = 0

    def excluding(self, away: Away) -> Rota:
        """The turns of a run in which these were away."""
        return self if away == self.away else replace(self, away=away)

    def away_at(self, step: int) -> tuple[int, ...]:
        """Who is away in a step."""
        for begin, clients in reversed(self.away):
            if begin <= step:
                return clients
        return ()

    @cached_property
    def turns(self) -> tuple[list[int], list[int]]:
        """The step at which each turn begins, and the client whose turn it is."""
        begins: list[int] = []
        whose: list[int] = []
        everyone = {client for client, _ in self.order}
        step = 0
        for client, count in cycle(self.order):
            away = self.away_at(step)
            # With nobody left the order would go round for ever without taking a step.
            if step >= self.steps or everyone <= {*away}:
                break
            if client in away:
                continue
            begins.append(step)
            whose.append(client)
            # A client that goes away within its turn loses the rest of it.
            leaves = [s for s, gone in self.away if step < s and client in gone]
            step = min([step + count, *leaves])
        return begins, whose

    def client(self, step: int) -> int:
        """Whose turn a step is; the last turn has no end."""
        begins, whose = self.turns
        return whose[bisect_right(begins, step) - 1]

    @cached_property
    def steps_of(self) -> tuple[Steps, ...]:
        """By client, the steps of its turns."""
        if self.clients == 1:
            # One client works in every step, also beyond `steps`: an evaluation has its
            # own count.
            return (EVERY_STEP,)
        stretches: list[list[tuple[int, int]]] = [[] for _ in range(self.clients)]
        begins, whose = self.turns
        ends = [*begins[1:], self.steps]
        for begin, end, client in zip(begins, ends, whose, strict=True):
            stretches[client].append((begin, end))
        return tuple(Steps.of(own) for own in stretches)

    @cached_property
    def handed(self) -> dict[tuple[int, int], Steps]:
        """By giver and taker, the steps before which the one hands over to the other.

        The last client that had a turn, and is there, gives to the one whose turn
        begins; after the last step it gives to all others that are there, and so at
        the end of every step after which all take. Only pairs that hand over are named:
        among many clients few follow one another.
        """
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        begins, whose = self.turns
        # The end of the run counts as a turn of its own, in which everybody takes.
        ends = [*begins[1:], self.steps] if self.hands_over else []
        for turn, step in enumerate(ends, 1):
            away = self.away_at(step)
            before = (whose[i] for i in range(turn - 1, -1, -1))
            giver = next((client for client in before if client not in away), None)
            to_all = self.every and step % self.every == 0
            if turn < len(whose) and not to_all:
                takers = [whose[turn]]
            else:
                takers = [c for c in range(self.clients) if c not in away]
            # Within the step: what is saved at its end is then what all have.
            step = step - 1 if to_all else step
            for taker in takers:
                # Who has two turns in a row has what it learned already.
                if giver is not None and giver != taker:
                    found.setdefault((giver, taker), []).append((step, step + 1))
        return {pair: Steps.of(stretches) for pair, stretches in found.items()}
