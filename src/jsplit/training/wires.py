"""Which messages a step or an evaluation sends: those of a topology's crossings, in order."""

from __future__ import annotations

from jsplit.topology.graph import Topology
from jsplit.training.kinds import WireKind
from jsplit.training.walk import Wire


def wires(topology: Topology) -> list[Wire]:
    """Every message of a step or an evaluation: all activations, then all cotangents."""
    up = [
        Wire(WireKind.ACTIVATION, c.name, c.sender, c.receiver)
        for c in topology.crossings
    ]
    down = [
        Wire(WireKind.COTANGENT, c.name, c.receiver, c.sender)
        for c in topology.crossings
        if c.returns
    ]
    return up + down
