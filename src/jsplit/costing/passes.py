"""Passes of clients over their records: the steps, and what is computed and sent in them.

All algorithms of runs are counted by these sums; what weights they move is
their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.trees import frame_bytes, nbytes
from jsplit.costing.party_cost import NOTHING, check_mode
from jsplit.costing.run_cost import ClientRun, Exchange
from jsplit.costing.step_cost import Cost


@dataclass(frozen=True)
class Passes:
    """Some passes of every client over all its records.

    Attributes:
        cost: Of one step, of the size of a whole batch.
        records: How many each client holds.
        count: Passes of each client in the whole run.
        backward: The backward mode.
    """

    cost: Cost
    records: tuple[int, ...]
    count: int
    backward: str

    def client_run(
        self, client: int, parties: Sequence[str], sent: int, received: int
    ) -> ClientRun:
        """What a client pays that is there for some parties, messages included.

        Args:
            client: Its number.
            parties: The parties that it is made of.
            sent: Bytes of weights that it sends in the run.
            received: Bytes of weights that it receives.
        """
        own = self.exchange(client, parties)
        # Weights are messages of their own, on top of those of the steps.
        return ClientRun(
            self.records[client],
            self.steps_of(client),
            own.work,
            own.sent + sent,
            own.received + received,
            sent + received,
            self.memory(client, parties),
        )

    def steps_of(self, client: int) -> int:
        """In how many steps a client takes part in the whole run."""
        return self.count * sum(times for _, times in self._sizes(client))

    def exchange(self, client: int, parties: Sequence[str]) -> Exchange:
        """What some parties compute and exchange in all steps of one client.

        What they send each other counts on both sides.
        """
        work, sent, received = NOTHING, 0, 0
        for cost, times in self._sizes(client):
            for name in parties:
                party, steps = cost.parties[name], self.count * times
                work += party.work(self.backward).times(steps)
                sent += steps * party.sent
                received += steps * party.received
        return Exchange(work, sent, received)

    def memory(self, client: int, parties: Sequence[str]) -> int:
        """The most bytes that some parties hold at once in a step of a client."""
        sizes = []
        for cost, _ in self._sizes(client):
            sizes.append(sum(cost.parties[p].memory(self.backward) for p in parties))
        return max(sizes)

    def _sizes(self, client: int) -> list[tuple[Cost, int]]:
        """The steps of one pass: the cost of one of each size, and how many there are."""
        # Looked up each time: what is expensive, the cost of a size, is cached by `cost`.
        full, left = divmod(self.records[client], self.cost.batch)
        found = []
        try:
            if full:
                found.append((self.cost, full))
            if left:
                found.append((self.cost.at(left), 1))
        except ValueError as error:
            # Micro-batches may not divide the last step, of which the user knows nothing.
            raise ValueError(
                f"`records` of {self.records[client]} leave a last step of {left}: "
                f"{error}"
            ) from error
        return found


def check_records(records: Sequence[int], backward: str) -> tuple[int, ...]:
    """The records of each client as plain integers; the backward mode is checked as well.

    Raises:
        ValueError: If `backward` is no mode, or a client has no whole
            number of records.
    """
    check_mode(backward)
    # A string is iterable too, and "88" is no list of two clients.
    listed = isinstance(records, Iterable) and not isinstance(records, str)
    try:
        found = tuple(as_positive_int("records", n) for n in records) if listed else ()
    except ValueError:
        found = ()
    if not found:
        raise ValueError(
            f"`records` must list a positive integer for every client, got {shown(records)}."
        )
    return found


def check_site(cost: Cost, client: str | Sequence[str]) -> tuple[str, ...]:
    """The parties that a client is made of.

    Raises:
        ValueError: If `client` is no party of `cost` and no list of
            different ones.
    """
    mine: tuple[str, ...] = ()
    if isinstance(client, str):
        mine = (client,)
    elif isinstance(client, Sequence):
        mine = tuple(client)
    # One listed twice would be paid twice.
    if not mine or len({*mine}) < len(mine):
        raise ValueError(
            f"`client` must be a party or several different ones, got {shown(client)}."
        )
    for party in mine:
        if party not in cost.parties:
            raise ValueError(
                f"`client` names the party `{party}`, "
                f"which is not one of {', '.join(cost.parties)}."
            )
    return mine


def size_of(payload: PyTree) -> int:
    """Bytes of one message that carries weights."""
    # One frame around all of it, however many arrays there are.
    return nbytes(payload) + frame_bytes(payload)
