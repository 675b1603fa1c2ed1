"""Who computes what and who holds what, as data; the six configurations; the drawings."""

from jsplit.topology.configurations import (
    extended_vanilla,
    multihop,
    multitask,
    u_shaped,
    vanilla,
    vertical,
    whole,
)
from jsplit.topology.crossings import Crossing
from jsplit.topology.decoupling import decoupled
from jsplit.topology.drawing import figure, mermaid
from jsplit.topology.graph import Topology
from jsplit.topology.losses import Loss, Penalty
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Node

__all__ = [
    "Crossing",
    "Loss",
    "Metric",
    "Node",
    "Penalty",
    "Topology",
    "decoupled",
    "extended_vanilla",
    "figure",
    "mermaid",
    "multihop",
    "multitask",
    "u_shaped",
    "vanilla",
    "vertical",
    "whole",
]
