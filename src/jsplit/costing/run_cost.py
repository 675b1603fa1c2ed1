"""What a whole training run costs, as records that print and keep themselves.

`split_runs` and `baseline_runs` compute them; `table` shows several runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jsplit.core.tables import aligned, plain, si
from jsplit.costing.party_cost import Work


# A tuple, as are the others: runs are compared, unpacked and summed entry by entry.
class Exchange(NamedTuple):
    """What some parties compute and exchange.

    Attributes:
        work: Their arithmetic.
        sent: Bytes they send.
        received: Bytes they receive.

    Example:
        >>> from jsplit.costing import Exchange, Work
        >>> Exchange(Work(8, 16.0), sent=100, received=200).sent
        100
    """

    work: Work
    sent: int
    received: int


class ClientRun(NamedTuple):
    """What a run costs one client.

    Attributes:
        records: How many it holds.
        steps: In how many it takes part.
        work: Its arithmetic.
        sent: Bytes sent, frames and weights included.
        received: Bytes received, frames and weights included.
        weights: Of these, both ways, the bytes that carry weights or their
            gradients.
        memory: The most bytes that it holds at once, gradients and scratch
            space aside.

    Example:
        >>> from jsplit.costing import Work
        >>> from jsplit.runs import ClientRun
        >>> ClientRun(500, 16, Work(8, 16.0), 100, 200, 80, 4000).steps
        16
    """

    records: int
    steps: int
    work: Work
    sent: int
    received: int
    weights: int
    memory: int


@dataclass(frozen=True)
class RunCost:
    """What a run costs. Printing it shows what a client pays on average.

    Attributes:
        algorithm: Its name, and how it was set.
        clients: What it costs each client.
        server: What all that are no clients compute and exchange.

    Example:
        >>> from jsplit.costing import Exchange, Work
        >>> from jsplit.runs import ClientRun, RunCost
        >>> work = Work(8, 16.0)
        >>> client = ClientRun(500, 16, work, 100, 200, 80, 4000)
        >>> run = RunCost("by hand", (client,), Exchange(work, 200, 100))
        >>> run.server.sent == run.clients[0].received
        True
    """

    algorithm: str
    clients: tuple[ClientRun, ...]
    server: Exchange

    @property
    def mean(self) -> Mapping[str, float]:
        """What one client pays on average.

        Returns:
            `macs`, `flops`, and in bytes `sent`, `received`, `bytes` (both
            ways), `weights` and `memory`.

        Example:
            >>> from jsplit.costing import Exchange, Work
            >>> from jsplit.runs import ClientRun, RunCost
            >>> work = Work(8, 16.0)
            >>> client = ClientRun(500, 16, work, 100, 200, 80, 4000)
            >>> RunCost("by hand", (client,), Exchange(work, 200, 100)).mean["bytes"]
            300.0
        """
        # By name, as the keys are those of the record.
        sums: dict[str, float] = {}
        for what in ("sent", "received", "weights", "memory"):
            sums[what] = sum(getattr(c, what) for c in self.clients)
        for what in ("macs", "flops"):
            sums[what] = sum(getattr(c.work, what) for c in self.clients)
        sums["bytes"] = sums["sent"] + sums["received"]
        return {what: x / len(self.clients) for what, x in sums.items()}

    def to_json(self) -> str:
        """All of it as a JSON object.

        Returns:
            A text with the keys `algorithm`, `clients` and `server`.

        Example:
            >>> import json
            >>> from jsplit.costing import Exchange, Work
            >>> from jsplit.runs import ClientRun, RunCost
            >>> work = Work(8, 16.0)
            >>> client = ClientRun(500, 16, work, 100, 200, 80, 4000)
            >>> run = RunCost("by hand", (client,), Exchange(work, 200, 100))
            >>> json.loads(run.to_json())["clients"][0]["steps"]
            16
        """
        # No mean: it follows from the clients.
        found = {
            "algorithm": self.algorithm,
            "clients": plain(self.clients),
            "server": plain(self.server),
        }
        return json.dumps(found, indent=1)

    def __str__(self) -> str:
        # As the line that it is among several runs.
        return table([self])


def table(runs: Sequence[RunCost]) -> str:
    """A table of several runs, a line each: what one client pays on average.

    Args:
        runs: In the order of the lines.

    Returns:
        A text in columns, to be printed in a font of one width.

    Example:
        >>> from jsplit import runs
        >>> from jsplit.costing import Exchange, Work
        >>> work = Work(8, 16.0)
        >>> client = runs.ClientRun(500, 16, work, 100, 200, 80, 4000)
        >>> run = runs.RunCost("by hand", (client,), Exchange(work, 200, 100))
        >>> print(runs.table([run]).splitlines()[1].split("  ")[0])
        by hand
    """
    columns = ["on average, a client of", "steps", "MACs", "FLOPs"]
    columns += ["bytes sent", "received", "weights, both ways", "memory"]
    rows = []
    for r in runs:
        mean = r.mean
        # Not rounded: clients of different sizes take different numbers of steps.
        steps = sum(c.steps for c in r.clients) / len(r.clients)
        shown = ["macs", "flops", "sent", "received", "weights", "memory"]
        rows.append([r.algorithm, f"{steps:g}", *(si(mean[what]) for what in shown)])
    return "\n".join(aligned(columns, rows))
