"""What whole training runs cost each client: a door to `jsplit.costing.runs`."""

from jsplit.costing.runs import (
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
