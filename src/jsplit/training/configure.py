"""What every interpreter of a topology shares: checked arguments, the first state, checked batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import as_positive_int
from jsplit.core.trees import batch_of
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.meshes import meshes_of

Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]
Links = Mapping[str, Link | tuple[Link | None, Link | None]]


def configure(
    topology: Topology,
    optimizer: Optimizers,
    links: Links | None,
    backward: str,
    microbatches: int,
    mesh: Any = None,
) -> Config:
    """The arguments of an interpreter, checked and spelled out.

    Raises:
        ValueError: naming the culprit.
    """
    if not isinstance(topology, Topology):
        raise ValueError(
            f"`topology` must be a Topology, got {type(topology).__name__}."
        )
    if not any(x.weight for x in topology.losses):
        raise ValueError(
            "`topology` has no loss, so there is nothing to train for; add a jsplit.Loss."
        )
    if backward not in ("residuals", "recompute"):
        raise ValueError(
            f'`backward` must be "residuals" or "recompute", got {backward!r}.'
        )
    microbatches = as_positive_int("microbatches", microbatches)
    owners = dict.fromkeys(n.party for n in topology.segments if n.segment.trainable)
    if not isinstance(optimizer, Mapping):
        optimizer = dict.fromkeys(owners, optimizer)
    for party in optimizer:
        if party not in topology.parties:
            raise ValueError(
                f"`optimizer` names the party `{party}`, which is not one of {', '.join(topology.parties)}."
            )
    for party in owners:
        if party not in optimizer:
            raise ValueError(
                f"`optimizer` has none for the party `{party}`, which owns parameters."
            )
        if not callable(getattr(optimizer[party], "init", None)) or not callable(
            getattr(optimizer[party], "update", None)
        ):
            raise ValueError(
                f"`optimizer` of `{party}` must be an optax optimizer, got {type(optimizer[party]).__name__}."
            )
    return Config(
        topology,
        optimizer,
        both_ways(topology, links),
        backward,
        microbatches,
        meshes_of(topology, mesh),
    )


def both_ways(topology: Topology, links: Links | None) -> dict[tuple[str, str], Link]:
    crossing = {c.name for c in topology.crossings}
    found, links = {}, {} if links is None else links
    if not isinstance(links, Mapping) or isinstance(links, Link):
        raise ValueError(
            f"`links` must be a dictionary by the names of values that cross, got {type(links).__name__}."
        )
    for name, link in links.items():
        if name not in crossing:
            there = ", ".join(sorted(crossing)) or "none"
            raise ValueError(
                f"`links` names `{name}`, which does not cross; there are {there}."
            )
        pair = (
            (link, link)
            if isinstance(link, Link)
            else tuple(link)
            if isinstance(link, (tuple, list))
            else ()
        )
        if len(pair) != 2 or not all(x is None or isinstance(x, Link) for x in pair):
            raise ValueError(
                f"`links` of `{name}` must be a Link or a pair of them (activation, cotangent), got {link!r}."
            )
        found.update(
            {
                (kind, name): x
                for kind, x in zip(("activation", "cotangent"), pair, strict=True)
                if x is not None
            }
        )
    return found


def check_batch(
    topology: Topology,
    batch: Mapping[str, PyTree],
    needed: set[str],
    microbatches: int = 1,
    weight: Any = None,
) -> int:
    """The batch size, after checking that every field is there and all have the same, positive one."""
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"the batch must be a dictionary of fields, got {type(batch).__name__}."
        )
    if needed - batch.keys():
        missing = sorted(needed - batch.keys())[0]
        raise ValueError(
            f"the batch lacks the field `{missing}`; it has {', '.join(map(str, batch)) or 'none'}."
        )
    for name in batch:
        if name not in topology.fields:
            raise ValueError(
                f"the batch has a field `{name}`, which no party holds; there are {', '.join(topology.fields)}."
            )
    size = batch_of(batch)
    if size % microbatches:
        raise ValueError(
            f"`microbatches` is {microbatches}, which does not divide the batch of {size} examples."
        )
    if weight is not None and jnp.shape(weight) != (size,):
        raise ValueError(
            f"`weight` must hold one number for each of the {size} examples, got shape {jnp.shape(weight)}."
        )
    return size


def fields_of(topology: Topology, *, losses: bool) -> set[str]:
    """The fields that the nodes, and the losses if asked, read."""
    readers = (*topology.segments, *topology.losses) if losses else topology.segments
    return {i for n in readers for i in n.reads if i in topology.fields}
