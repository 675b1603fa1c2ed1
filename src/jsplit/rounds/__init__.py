"""Many clients: the algorithms that train them, round by round."""

from jsplit.core.federation import Clients, Federation
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.baselines import alone, centralized, fedavg, large_batch_sgd
from jsplit.rounds.clients_on_host import on_host
from jsplit.rounds.host_rows import HostRows
from jsplit.rounds.recording import RecordedRound
from jsplit.rounds.sharing import PartySharing, Sharing, SharingTable
from jsplit.rounds.split_learning import parallel, splitfed, take_turns
from jsplit.rounds.state import RoundInfo

__all__ = [
    "Algorithm",
    "Clients",
    "Federation",
    "HostRows",
    "PartySharing",
    "RecordedRound",
    "RoundInfo",
    "Sharing",
    "SharingTable",
    "alone",
    "centralized",
    "fedavg",
    "large_batch_sgd",
    "on_host",
    "parallel",
    "splitfed",
    "take_turns",
]


def __dir__() -> list[str]:
    return [*__all__]
