"""The configuration of a training as one party on its own machine knows it."""

from __future__ import annotations

from collections.abc import Mapping

import optax

from jsplit.core.base import Link
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.checks import scale_of
from jsplit.party.contract.unread import unread_of
from jsplit.party.task import INFERENCE
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import configure
from jsplit.training.global_norm import clip_by_global_norm, with_loss
from jsplit.training.optimizer_parts import clips_of, norms_of, wants_loss
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
    # run here. All that is known of them is what they exchange.
    # To what they clip they know; that it is to one bound nobody can find out alone.
    bounds = {x.name: x.max_norm for x in clips_of(optimizer)} if optimizer else {}
    clips = [clip_by_global_norm(bounds.get(n, 1.0), n) for n in agreed.norms]
    stand_in = optax.chain(optax.identity(), *clips)
    optimizers: dict[str, optax.GradientTransformation] = {}
    for owner in owners:
        wants = owner in agreed.wants_loss
        optimizers[owner] = with_loss(stand_in) if wants else stand_in
    if party in owners and optimizer not in (None, INFERENCE):
        _check_exchange(agreed, party, optimizer)
        optimizers[party] = optimizer
    made = agreed.links(links)
    config = configure(
        topology,
        optimizers,
        made,
        backward,
        agreed.microbatches,
        kernels=kernels,
        nonfinite=agreed.nonfinite,
        loss_scale=scale_of(agreed.loss_scale),
        # Whoever looks at a state between steps has a checkpoint.
        donate=True,
    )
    # Nobody can find out alone what others do not read.
    return config._replace(passing=Agreed(unread_of(agreed)))


def _check_exchange(
    agreed: Agreement, party: str, optimizer: optax.GradientTransformation
) -> None:
    """Refuse an optimizer that exchanges other numbers than the parties agreed on."""
    has = norms_of({party: optimizer})
    if {*has} != {*agreed.norms}:
        raise ValueError(
            f"`optimizer` of `{party}` has clip_by_global_norm with the names "
            f"{[*has]}, the agreement has `norms` {[*agreed.norms]}."
        )
    wants, agreed_on = wants_loss(optimizer), party in agreed.wants_loss
    if wants != agreed_on:
        there = "is" if agreed_on else "is not"
        raise ValueError(
            f"`optimizer` of `{party}` {'asks' if wants else 'does not ask'} for the "
            f"loss by with_loss, and `{party}` {there} among `wants_loss` of the "
            "agreement."
        )
