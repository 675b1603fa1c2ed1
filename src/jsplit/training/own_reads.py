"""What a link is told beside the value: fields and values of its sender's own, and strengths.

They never cross themselves. That the sender has them is looked at in `link_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.strength import Strength
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import fields_of
from jsplit.training.kinds import Kind, WireKind
from jsplit.training.walk import Name, Wire


def read_names(config: Config, wire: Wire, link: Link, train: bool) -> dict[str, Name]:
    """Where that lies of the sender which its link is told, by name.

    In inference what no node reads, as labels, is left out: an evaluation must send
    what `predict` sends, and that has no labels.
    """
    topology = config.topology
    there = {*link.reads}
    if not train:
        there = {*topology.node, *fields_of(topology, losses=False)}
    return {n: Name(wire.sender, Kind.VALUE, n) for n in link.reads if n in there}


def told(link: Link, found: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """All that a link is told, by name.

    Args:
        link: which encodes.
        found: what lies at `read_names` and `strength_names`.
    """
    own = {n: found.get(n) for n in link.reads}
    for name, x in link.strengths.items():
        # Numbers as arrays too, so that what a link does with one it can with the other.
        own[name] = found[name] if isinstance(x, Strength) else jnp.float32(x)
    return own


def training_fields(config: Config) -> set[str]:
    """The fields that a step needs: those of nodes and losses, and those of links."""
    topology = config.topology
    read = {n for link in config.links.values() for n in link.reads}
    return fields_of(topology, losses=True) | (read & {*topology.fields})


def fields_of_links(
    topology: Topology, links: Mapping[tuple[str, str], Link], party: str
) -> set[str]:
    """The fields that the links read through which a party sends in training.

    Args:
        topology: whose values cross.
        links: by kind of message and name of the value.
        party: which sends.
    """
    senders = [(WireKind.ACTIVATION, c.name, c.sender) for c in topology.crossings]
    senders += [
        (WireKind.COTANGENT, c.name, c.receiver)
        for c in topology.crossings
        if c.returns
    ]
    own = [links.get((kind, name)) for kind, name, sender in senders if sender == party]
    read = {n for link in own if link is not None for n in link.reads}
    return read & {*topology.fields}
