"""Split learning in JAX: parties train one network together, and it equals training it whole.

Whatever a user calls is listed in `__all__`; the rooms behind it (`jsplit.core`, `jsplit.training`,
...) may change from one version to the next.
"""

from jsplit import compress, party, population, rounds, runs
from jsplit.core.base import (
    Info,
    Link,
    Message,
    PartyState,
    Segment,
    Trainer,
    TrainState,
)
from jsplit.core.checkpoint import restore, save
from jsplit.core.links import chain, identity, stateless
from jsplit.costing.plan import Device, Network, plan
from jsplit.costing.records import Cost
from jsplit.costing.step import cost
from jsplit.segments.precision import mixed_precision
from jsplit.segments.segment import segment
from jsplit.slicing.cut_points import CutPoint, cut_points
from jsplit.slicing.merge import merge, variables
from jsplit.slicing.split import cut, join, split
from jsplit.topology.configurations import (
    extended_vanilla,
    multihop,
    multitask,
    u_shaped,
    vanilla,
    vertical,
)
from jsplit.topology.decoupled import decoupled
from jsplit.topology.drawing.draw import figure, mermaid
from jsplit.topology.graph import Crossing, Topology
from jsplit.topology.nodes import Loss, Node, Penalty
from jsplit.training.export import export
from jsplit.training.fused import fused
from jsplit.training.messages import messages
from jsplit.training.staleness import stale

__version__ = "0.2.0"  # the only place: pyproject.toml reads it from here
__all__ = [
    "Cost",
    "Crossing",
    "CutPoint",
    "Device",
    "Info",
    "Link",
    "Loss",
    "Message",
    "Network",
    "Node",
    "PartyState",
    "Penalty",
    "Segment",
    "Topology",
    "TrainState",
    "Trainer",
    "chain",
    "compress",
    "cost",
    "cut",
    "cut_points",
    "decoupled",
    "export",
    "extended_vanilla",
    "figure",
    "fused",
    "identity",
    "join",
    "merge",
    "mermaid",
    "messages",
    "mixed_precision",
    "multihop",
    "multitask",
    "party",
    "plan",
    "population",
    "restore",
    "rounds",
    "runs",
    "save",
    "segment",
    "split",
    "stale",
    "stateless",
    "u_shaped",
    "vanilla",
    "variables",
    "vertical",
]


def __dir__() -> list[str]:
    # Importing a room makes it an attribute of the package. Completion in a notebook shows
    # what is meant to be called, and not these.
    return [*__all__]
