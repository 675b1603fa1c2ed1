"""The six configurations of Vepakomma et al. 2018 and the whole model: a `Topology` each.

What crosses follows from who owns which segment. A topology of one's own is
as easy: write its nodes.
"""

from jsplit.topology.configurations.chains import multihop, u_shaped, vanilla
from jsplit.topology.configurations.merging import (
    extended_vanilla,
    multitask,
    vertical,
)
from jsplit.topology.configurations.uncut import whole

__all__ = [
    "extended_vanilla",
    "multihop",
    "multitask",
    "u_shaped",
    "vanilla",
    "vertical",
    "whole",
]
