"""The configuration of a training as one party on its own machine knows it."""

from __future__ import annotations

from collections.abc import Mapping

import optax

from jsplit.core.base import Link
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.unread import unread_of
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import configure
from jsplit.training.passing import Agreed


def own_config(
    agreed: Agreement,
    topology: Topology,
    party: str,
    optimizer: optax.GradientTransformation | None,
    links: Mapping[str, Link] | None,
    backward: str,
    kernels: str,
) -> Config:
    """The configuration that all share, as far as one party can know it.

    Args:
        agreed: what the parties have agreed on.
        topology: with the party's own segments in it.
        party: whose part this is, as the topology calls it.
        optimizer: its own, if it owns parameters.
        links: of its own, by the names that the agreement gives them.
        backward: mode, as for `jsplit.fused`.
        kernels: how operations are computed, as for `jsplit.fused`.

    Raises:
        ValueError: if an optimizer or a link is missing.
    """
    owners = dict.fromkeys(n.party for n in topology.segments if n.segment.trainable)
    if party in owners and optimizer is None:
        raise ValueError(f"`optimizer` is missing: `{party}` owns parameters.")
    # The others' optimizers are their own affair; their updates never
    # run here.
    optimizers = dict.fromkeys(owners, optax.identity())
    if party in owners and optimizer is not None:
        optimizers[party] = optimizer
    made = agreed.links(links)
    config = configure(
        topology,
        optimizers,
        made,
        backward,
        agreed.microbatches,
        kernels=kernels,
    )
    # Nobody can find out alone what others do not read.
    return config._replace(passing=Agreed(unread_of(agreed)))
