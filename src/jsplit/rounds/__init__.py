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
from jsplit.rounds.state import Federation, RoundInfo

__all__ = [
    "Algorithm",
    "Federation",
    "RoundInfo",
    "alone",
    "centralized",
    "fedavg",
    "large_batch_sgd",
    "parallel",
    "splitfed",
    "take_turns",
]
