"""What whole training runs cost each client: a door to `jsplit.costing`.

Each function is the twin of an algorithm of `jsplit.rounds`, with its name.
"""

from jsplit.costing import (
    ClientRun,
    RunCost,
    fedavg,
    large_batch_sgd,
    parallel,
    splitfed,
    table,
    take_turns,
)

__all__ = [
    "ClientRun",
    "RunCost",
    "fedavg",
    "large_batch_sgd",
    "parallel",
    "splitfed",
    "table",
    "take_turns",
]


def __dir__() -> list[str]:
    return [*__all__]
