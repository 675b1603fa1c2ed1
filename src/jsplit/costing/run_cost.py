"""What a whole training run costs, as a value: each client's work, bytes and memory, and a table of several runs.

`runs` computes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jsplit.core.tables import aligned, plain, si
from jsplit.costing.records import Work


class ClientRun(NamedTuple):
    """What a run costs one client.

    Attributes:
        records: that it holds.
        steps: in which it takes part.
        work: its arithmetic.
        sent, received: bytes, frames and weights included.
        weights: of these, both ways, the bytes that carry weights or their gradients.
        memory: the most bytes that it holds at once, gradients and scratch space aside.
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
    """What a run costs.

    Attributes:
        algorithm: and how it was set.
        clients: what it costs each client.
        server: work, sent and received bytes of all that are no clients.
    """

    algorithm: str
    clients: tuple[ClientRun, ...]
    server: tuple[Work, int, int]

    @property
    def mean(self) -> Mapping[str, float]:
        """Of one client, on average: `macs`, `flops`, `sent`, `received`, `bytes` (both ways), `weights`, `memory`."""
        n = len(self.clients)
        sums = {
            what: sum(getattr(c, what) for c in self.clients)
            for what in ("sent", "received", "weights", "memory")
        }
        sums |= {
            what: sum(getattr(c.work, what) for c in self.clients)
            for what in ("macs", "flops")
        }
        return {
            what: x / n
            for what, x in (sums | {"bytes": sums["sent"] + sums["received"]}).items()
        }

    def to_json(self) -> str:
        """All of it as a JSON object."""
        server = dict(
            zip(("work", "sent", "received"), map(plain, self.server), strict=True)
        )
        return json.dumps(
            {
                "algorithm": self.algorithm,
                "clients": plain(self.clients),
                "server": server,
            },
            indent=1,
        )

    def __str__(self) -> str:
        return table([self])


def table(runs: Sequence[RunCost]) -> str:
    """Several runs, a line each: what one client pays on average."""
    columns = [
        "on average, a client of",
        "steps",
        "MACs",
        "FLOPs",
        "bytes sent",
        "received",
        "weights, both ways",
        "memory",
    ]
    rows = []
    for r in runs:
        m, steps = r.mean, sum(c.steps for c in r.clients) / len(r.clients)
        sizes = [si(m[what]) for what in ("sent", "received", "weights", "memory")]
        rows.append([r.algorithm, f"{steps:g}", si(m["macs"]), si(m["flops"]), *sizes])
    return "\n".join(aligned(columns, rows))
