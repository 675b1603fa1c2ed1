"""What a trainer is asked for, in the form that everything after its construction reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import optax
from jax.sharding import Mesh

from jsplit.core.base import Link
from jsplit.topology.graph import Topology

# The first is the default everywhere, and the one that common numbers are taken from.
MODES = ("residuals", "recompute")
"""The backward modes: what is kept for the backward pass, or computed once more in it."""


class UnreadLeaves(Protocol):
    """Which leaves of what a message carries do not cross; `passing.py` finds them."""

    def unread(self, wire: tuple[str, str, str, str], /) -> frozenset[int]:
        """Their numbers, by the message: kind, value, sender and receiver."""
        ...


class Config(NamedTuple):
    """The arguments of `jsplit.fused` or `jsplit.messages`, checked and spelled out.

    Attributes:
        topology: who computes what.
        optimizer: one for every party that owns parameters.
        links: by the kind of message, "activation" or "cotangent", and
            the name of the value.
        backward: "residuals" or "recompute".
        microbatches: how many equal parts a batch is divided into.
        mesh: by party, its devices; parties without an entry use the
            default device.
        kernels: "fast" or "xla", how operations are computed.
        passing: what does not cross, because nobody reads it; `None`:
            everything crosses.
    """

    topology: Topology
    optimizer: Mapping[str, optax.GradientTransformation]
    links: Mapping[tuple[str, str], Link]
    backward: str
    microbatches: int
    mesh: Mapping[str, Mesh] = {}
    kernels: str = "fast"
    passing: UnreadLeaves | None = None
