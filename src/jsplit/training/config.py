"""What a trainer is asked for, in the form that everything after its construction reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import optax
from jax.sharding import Mesh

from jsplit.core.base import Link
from jsplit.topology.graph import Topology
from jsplit.training.dynamic_scale import LossScale

# The first is the default everywhere, and the one that common numbers are taken from.
MODES = ("residuals", "recompute")
"""The backward modes: what is kept for the backward pass, or computed once more in it."""

NONFINITE = ("refuse", "skip", "allow")
"""What becomes of a step that leaves NaN or infinity."""


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
        nonfinite: "refuse", "skip" or "allow", what becomes of a step that
            leaves what is not finite.
        donate: whether a step uses up the state that it is given.
        norms: the names of norms that all parties' optimizers share.
        wants_loss: the parties whose optimizers ask for the loss.
        passing: what does not cross, because nobody reads it; `None`:
            everything crosses.
        loss_scale: by what cotangents are multiplied; `None`: by nothing.
        records: what a step tells beside its info: "crossed", "gradients", "norms",
            "hyperparams", "seconds".
        of_each: parties whose parameters are those of many clients, along a first
            axis.
    """

    topology: Topology
    optimizer: Mapping[str, optax.GradientTransformation]
    links: Mapping[tuple[str, str], Link]
    backward: str
    microbatches: int
    mesh: Mapping[str, Mesh] = {}
    kernels: str = "fast"
    nonfinite: str = "refuse"
    donate: bool = False
    norms: tuple[str, ...] = ()
    wants_loss: tuple[str, ...] = ()
    passing: UnreadLeaves | None = None
    loss_scale: LossScale | None = None
    records: tuple[str, ...] = ()
    of_each: tuple[str, ...] = ()
