"""Many clients: the algorithms that train them, round by round."""

from jsplit.rounds.algorithms import (
    Algorithm,
    alone,
    centralized,
    fedavg,
    large_batch_sgd,
    parallel,
    splitfed,
    take_turns,
)

__all__ = [
    "Algorithm",
    "alone",
    "centralized",
    "fedavg",
    "large_batch_sgd",
    "parallel",
    "splitfed",
    "take_turns",
]
