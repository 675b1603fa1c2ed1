"""The arguments of an interpreter, checked, and the batches that it is given, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jsplit.core.base import Link, PyTree, Segment
from jsplit.core.checks import as_positive_int, one_of, shown
from jsplit.core.trees import batch_of
from jsplit.jaxprs.compiling import KERNELS
from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node
from jsplit.training.config import MODES, NONFINITE, Config
from jsplit.training.dynamic_scale import DynamicScale, LossScale, as_scale
from jsplit.training.kinds import WireKind
from jsplit.training.left_out import Weight, array_of
from jsplit.training.link_checks import check_noise, check_reads
from jsplit.training.loss_value import check_normalisers
from jsplit.training.meshes import meshes_of
from jsplit.training.optimizer_parts import norms_of, wants_loss
from jsplit.training.optimizers import check_fit, warn_of_own_norms
from jsplit.training.strengths import strengths_of

Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]
Links = Mapping[str, Link | tuple[Link | None, Link | None]]


def configure(
    topology: Topology,
    optimizer: Optimizers,
    links: Links | None,
    backward: str,
    microbatches: int,
    mesh: Mesh | Mapping[str, Mesh] | None = None,
    kernels: str = "fast",
    nonfinite: str | None = None,
    donate: bool = False,
    loss_scale: LossScale | None = None,
) -> Config:
    """Check the arguments of an interpreter, and spell them out.

    Args:
        topology: as for `jsplit.fused`, and so are all others.
        optimizer: one for all parties, or one for each that owns
            parameters.
        links: by the name of a value.
        backward: "residuals" or "recompute".
        microbatches: how many.
        mesh: one for all parties, or by party.
        kernels: "fast" or "xla".
        nonfinite: "refuse", "skip" or "allow"; `None`: what fits the scale.
        donate: whether a step uses up its state.
        loss_scale: a number or a `DynamicScale`.

    Returns:
        The configuration.

    Raises:
        ValueError: naming the culprit.
    """
    if not isinstance(topology, Topology):
        raise ValueError(
            f"`topology` must be a Topology, got {type(topology).__name__}"
            f"{_made_of(topology)}."
        )
    # Losses of weight 0 are metrics: they are computed, and nothing is
    # differentiated for them.
    if not any(x.weight for x in topology.losses):
        raise ValueError(
            "`topology` has no loss, so there is nothing to train for; add a jsplit.Loss."
        )
    if backward not in MODES:
        raise ValueError(
            f'`backward` must be "residuals" or "recompute", got {shown(backward)}.'
        )
    microbatches = as_positive_int("microbatches", microbatches)
    one_of("kernels", kernels, KERNELS)
    nonfinite, loss_scale = _policy(nonfinite, loss_scale)
    one_of("donate", donate, (False, True))
    meshes = meshes_of(topology, mesh)
    optimizers = _optimizer_of_each(topology, optimizer)
    found = owners(topology)
    warn_of_own_norms({p: optimizers[p] for p in found})
    check_normalisers(topology)
    check_noise(topology, microbatches, scaled=loss_scale is not None)
    config = Config(
        topology,
        optimizers,
        both_ways(topology, links),
        backward,
        microbatches,
        meshes,
        # A form that divides a batch would move it between the devices that share it.
        "xla" if meshes else kernels,
        nonfinite,
        donate,
        norms_of({p: optimizers[p] for p in found}),
        tuple(p for p in found if wants_loss(optimizers[p])),
        loss_scale=loss_scale,
    )
    # Two values of one strength are found here, before a state is made.
    strengths_of(config)
    return config


def _policy(
    nonfinite: str | None, loss_scale: LossScale | None
) -> tuple[str, LossScale | None]:
    """What becomes of a step that is not finite, and the scale, which must go together."""
    dynamic = isinstance(loss_scale, DynamicScale)
    if nonfinite is None:
        nonfinite = "skip" if dynamic else "refuse"
    one_of("nonfinite", nonfinite, NONFINITE)
    # A dynamic scale finds its size by what overflows, and nobody may train on that.
    if dynamic and nonfinite != "skip":
        raise ValueError(
            f'`nonfinite` must be "skip" where `loss_scale` is dynamic, got {nonfinite!r}.'
        )
    if loss_scale is not None and not isinstance(loss_scale, DynamicScale):
        loss_scale = as_scale("loss_scale", loss_scale)
    return nonfinite, loss_scale


def owners(topology: Topology) -> list[str]:
    """The parties that own parameters."""
    return list(
        dict.fromkeys(n.party for n in topology.segments if n.segment.trainable)
    )


def _made_of(model: object) -> str:
    """What to do with a whole model, which says neither who has what nor the loss."""
    if not callable(model) and not isinstance(model, Segment):
        return ""
    return (
        "; divide a model by jsplit.split, and say who has which part and the loss, as "
        "by jsplit.vanilla(*segments.values(), loss=...)"
    )


def _optimizer_of_each(
    topology: Topology, optimizer: Optimizers
) -> Mapping[str, optax.GradientTransformation]:
    """By party, its optimizer; at least those that own parameters have one."""
    found = owners(topology)
    if not isinstance(optimizer, Mapping):
        optimizer = dict.fromkeys(found, optimizer)
    for party in optimizer:
        if party not in topology.parties:
            raise ValueError(
                f"`optimizer` names the party `{party}`, which is not one of "
                f"{', '.join(topology.parties)}."
            )
    for party in found:
        if party not in optimizer:
            raise ValueError(
                f"`optimizer` has none for the party `{party}`, which owns parameters."
            )
        # By its methods: optimizers that take extra arguments are of
        # another class.
        one = optimizer[party]
        has_both = all(callable(getattr(one, n, None)) for n in ("init", "update"))
        if not has_both:
            raise ValueError(
                f"`optimizer` of `{party}` must be an optax optimizer, got "
                f"{type(one).__name__}."
            )
        check_fit(party, one)
    return optimizer


def both_ways(topology: Topology, links: Links | None) -> dict[tuple[str, str], Link]:
    """By kind of message and name of the value, the link that it crosses through.

    Args:
        topology: whose values cross.
        links: as for `jsplit.fused`: a link for both ways, or a pair.

    Returns:
        Only crossings that have a link.

    Raises:
        ValueError: if a name does not cross, what is given is no link, or
            one reads what its sender does not have.
    """
    # A Link is a tuple, and not a mapping by the names of its fields.
    if links is not None and (
        not isinstance(links, Mapping) or isinstance(links, Link)
    ):
        raise ValueError(
            "`links` must be a dictionary by the names of values that cross, got "
            f"{type(links).__name__}."
        )
    crossing = {c.name for c in topology.crossings}
    found: dict[tuple[str, str], Link] = {}
    for name, link in (links or {}).items():
        if name not in crossing:
            there = ", ".join(sorted(crossing)) or "none"
            raise ValueError(
                f"`links` names `{name}`, which does not cross; there are {there}."
            )
        ways = (WireKind.ACTIVATION, WireKind.COTANGENT)
        for kind, one in zip(ways, _pair(name, link), strict=True):
            if one is not None:
                found[kind, name] = one
    check_reads(topology, found)
    return found


def _pair(
    name: str, link: Link | Sequence[Link | None]
) -> tuple[Link | None, Link | None]:
    """The links of the activation and of the cotangent, in the order of `WireKind`."""
    # A Link is a tuple too, so it is asked for first.
    if isinstance(link, Link):
        return link, link
    is_pair = isinstance(link, (tuple, list)) and len(link) == 2
    if not is_pair or not all(x is None or isinstance(x, Link) for x in link):
        raise ValueError(
            f"`links` of `{name}` must be a Link or a pair of them (activation, "
            f"cotangent), got {shown(link)}."
        )
    up, down = link
    return up, down


def check_batch(
    topology: Topology,
    batch: Mapping[str, PyTree],
    needed: set[str],
    microbatches: int = 1,
    weight: Weight | None = None,
) -> int:
    """Check that a batch has all fields that are needed, and none that nobody holds.

    Args:
        topology: who holds which field.
        batch: fields, [batch, ...] each.
        needed: fields that must be there.
        microbatches: what must divide the batch size.
        weight: how much each example counts, [batch], or each of its entries,
            [batch, time].

    Returns:
        The batch size, which all fields share.

    Raises:
        ValueError: naming the field.
    """
    # It runs in every step: one pass, and a call only for what it
    # cannot see itself.
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"the batch must be a dictionary of fields, got {type(batch).__name__}."
        )
    # A missing field is reported before one too many: it is most often
    # one misspelt name.
    if needed - batch.keys():
        missing = sorted(needed - batch.keys())[0]
        there = ", ".join(map(str, batch)) or "none"
        raise ValueError(f"the batch lacks the field `{missing}`; it has {there}.")
    for name in batch:
        if name not in topology.fields:
            raise ValueError(
                f"the batch has a field `{name}`, which no party holds; there are "
                f"{', '.join(topology.fields)}."
            )
    size = batch_of(batch)
    if size % microbatches:
        raise ValueError(
            f"`microbatches` is {microbatches}, which does not divide the batch of "
            f"{size} examples."
        )
    if weight is not None and (got := jnp.shape(array_of(weight)))[:1] != (size,):
        raise ValueError(
            f"`weight` must hold one number for each of the {size} examples, or [{size}, "
            f"...], got shape {got}."
        )
    return size


def fields_of(topology: Topology, *, losses: bool, metrics: bool = False) -> set[str]:
    """The fields that the nodes, and the losses and metrics if asked, read."""
    # Labels are read by losses alone: to predict, nobody needs them. What metrics
    # alone read is not asked of who trains.
    readers: tuple[Node | Loss | Metric, ...] = topology.segments
    readers += topology.losses if losses else ()
    readers += topology.metrics if metrics else ()
    return {i for n in readers for i in n.reads if i in topology.fields}
