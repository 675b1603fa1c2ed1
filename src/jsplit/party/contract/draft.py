"""How an agreement is made from a topology and the shapes of one batch.

Whoever makes it need not have all segments: `foreign` ones are known by name, and the
shapes that they give are said by `values`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jsplit.core.base import Link, PyTree
from jsplit.core.trees import as_arrays
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement import Agreement, parsed
from jsplit.party.contract.checks import check_addresses, with_format
from jsplit.party.contract.entries import (
    MetricEntry,
    NodeEntry,
    as_json,
)
from jsplit.party.contract.epochs import drafted
from jsplit.party.contract.field_types import dtypes_of
from jsplit.party.contract.frozen_part import frozen_part
from jsplit.party.contract.measured import measured, measured_with_params
from jsplit.party.contract.placeholders import loss_entry
from jsplit.party.contract.seconds import STALL
from jsplit.party.contract.turns_check import checked_turns, steps_around
from jsplit.party.contract.unread import found_unread
from jsplit.topology.graph import Topology
from jsplit.topology.own_values import carried_over
from jsplit.training.configure import check_batch
from jsplit.training.dynamic_scale import DynamicScale

LinkNames = Mapping[str, str | None | Sequence[str | None]]
"""By value, the name of its link, or a pair of names (activation, cotangent)."""


def agreement(
    topology: Topology,
    batch: Mapping[str, PyTree],
    *,
    steps: int | None = None,
    addresses: Mapping[str, str],
    lead: str | None = None,
    links: LinkNames | None = None,
    microbatches: int = 1,
    turns: Mapping[str, object] | None = None,
    epochs: Mapping[str, object] | None = None,
    staleness: int = 0,
    seed: int = 0,
    checkpoint: int | None = None,
    patience: float = 600.0,
    stall: float = STALL,
    nonfinite: str = "refuse",
    norms: Sequence[str] = (),
    wants_loss: Sequence[str] = (),
    weight: str = "",
    loss_scale: DynamicScale | float | None = None,
    values: Mapping[str, PyTree] | None = None,
    identities: Mapping[str, str] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> Agreement:
    """Make what the parties of a topology agree on.

    Nothing is computed: the shapes of what crosses are found by abstract evaluation.
    Parts of a value that its receiver does not read are left out, as far as the
    receiver's segments are here (`Agreement.unread`).

    Args:
        topology: whose segments may be `foreign`, where nobody has them all.
        batch: shapes and dtypes of one batch, by field, [batch, ...]; its size is that
            of every step, and each party's fields must have these dtypes. Arrays do
            as well.
        steps: how many the run has, where it has no epochs.
        addresses: `host:port` of every party that listens; others only dial out.
        lead: the party that all others have a connection with, and that keeps them
            together; by default the first that listens.
        links: by the name of a value, what is done to it on its way: `"quantize(8)"`,
            `"cast(bfloat16)"`, several joined by `" | "`, a name registered by
            `jsplit.compress.register`, a name for which each party gives a link, or a
            pair of them (activation, cotangent) with `None` for none.
        microbatches: into how many parts a step's batch is divided, which are under way
            at the same time.
        turns: who plays which role in which step, where clients take turns; see
            `jsplit.party.turns`.
        epochs: for `jsplit.party.fit`: how many, and what comes after each; see
            `jsplit.party.epochs`. All save their state at the end of each then.
        staleness: how many of the last updates the parameters of a step may lack, so
            that steps overlap. 0 is exact: every step has the parameters that the one
            before has left. More is another training, which does not wait for the way
            there and back.
        seed: of data order and common randomness.
        checkpoint: all save their state every so many steps; 100 by default, and with
            `epochs` at the end of each.
        patience: how long a party is waited for that is away, in seconds. One that is
            there and at work, however long a step or a compilation takes, is not away.
        stall: how long such a party may be at work on one step, in seconds; from then
            on it counts as away. It ends runs of which a party hangs, so rather too much.
        nonfinite: `"refuse"`: whoever gets an activation or cotangent that holds NaN or
            an infinite value, or would keep one after a step, ends the run and says so
            to all; `"skip"`: a step after which anybody would keep one is left out by
            all, who exchange how many there are; `"allow"`: it passes.
        norms: the names of norms that all parties' optimizers share, where these have
            `jsplit.clip_by_global_norm`, which calls its norm `"global norm"`.
        wants_loss: the parties whose optimizers are sent the loss, by
            `jsplit.with_loss`.
        weight: the name of an entry that every party that has fields or losses adds to
            its data: how much each record counts in the losses, [record], or each
            of its entries, [record, time], in losses of entries. One of
            weight 0 is left out whatever it holds, as a label that is missing. All must
            give the same. By default all records count alike.
        loss_scale: as for `jsplit.fused`; a `jsplit.DynamicScale` asks for
            `nonfinite="skip"`.
        values: shapes and dtypes of one batch of what `foreign` segments produce, by
            node, where it crosses.
        identities: by party, the URI in its certificate, where it is not that of
            `jsplit certs`.
        hosts: by party, the host name in its certificate, where it is another.

    Returns:
        The `Agreement`, checked.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jax, jsplit, optax
        >>> topology = jsplit.vanilla(
        ...     jsplit.segment(lambda x: 2 * x, inputs="x", name="h"),
        ...     jsplit.segment(lambda h: h + 1, inputs="h", name="y"),
        ...     loss=optax.squared_error,
        ...     client="hospital",
        ... )
        >>> shape = jax.ShapeDtypeStruct((4, 3), "float32")
        >>> agreed = jsplit.party.agreement(
        ...     topology,
        ...     {"x": shape, "label": shape},
        ...     steps=10,
        ...     addresses={"server": "localhost:8476"},
        ...     links={"h": "cast(bfloat16)"},
        ... )
        >>> agreed.parties, agreed.values["h"]
        (('hospital', 'server'), 'float32[batch,3]')
    """
    # Shapes at two sizes tell which axes are those of the batch: the ones that double.
    batch = as_arrays(batch)
    size = check_batch(topology, batch, set(), microbatches)
    small, params = measured_with_params(topology, batch, size, values)
    large = measured(topology, batch, 2 * size, values)
    names = dict.fromkeys(c.name for c in topology.crossings)
    # Before `lead`, whose error would blame a lead taken from addresses that are none.
    check_addresses(addresses)
    of_topology = _of_topology(topology, params)
    losses, around = of_topology["losses"], _around(turns, topology.parties)
    said: dict[str, object] = {
        **of_topology,
        **drafted(epochs, steps, checkpoint, size, losses, around),
        "fields": {name: dtypes_of(x) for name, x in batch.items()},
        "unread": found_unread(topology, batch, small),
        "values": {n: shapes.write(small[n], large[n], size, n) for n in names},
        "lead": next(iter(addresses)) if lead is None else lead,
        "addresses": dict(addresses),
        "links": _pairs(links or {}),
        "batch": size,
        "microbatches": microbatches,
        "seed": seed,
        "turns": turns,
        "staleness": staleness,
        "nonfinite": nonfinite,
        "norms": list(norms),
        "wants_loss": list(wants_loss),
        "weight": weight,
        "loss_scale": _scale_in_words(loss_scale),
        "patience": patience,
        "stall": stall,
        "identities": dict(identities or {}),
        "hosts": dict(hosts or {}),
    }
    return parsed(with_format(said))


def _around(turns: Mapping[str, object] | None, roles: Sequence[str]) -> int | None:
    """Steps once round the order of clients that take turns; `None` if none do."""
    return None if turns is None else steps_around(checked_turns(turns, roles)["order"])


def _scale_in_words(scale: DynamicScale | float | None) -> object:
    """A loss scale as JSON has it."""
    return dataclasses.asdict(scale) if isinstance(scale, DynamicScale) else scale


def _of_topology(topology: Topology, params: Mapping[str, PyTree]) -> dict[str, object]:
    """What an agreement says of a topology: names, never a function or a parameter.

    Args:
        topology: of all parties.
        params: by node, shapes of its parameters, where its segment is here.
    """
    nodes, losses = [], []
    for node in topology.segments:
        here = node.name in params
        entry = NodeEntry(
            node.name,
            node.party,
            node.reads,
            node.segment.trainable,
            tuple(node.detached),
            frozen_part(node.segment, params[node.name]) if here else "",
        )
        nodes.append(as_json(entry))
    for x in topology.losses:
        losses.append(as_json(loss_entry(x)))
    metrics = [
        as_json(MetricEntry(x.name, x.party, x.reads, x.weighted))
        for x in topology.metrics
    ]
    return {
        "parties": list(topology.parties),
        "holds": {party: list(fields) for party, fields in topology.holds.items()},
        "nodes": nodes,
        "losses": losses,
        "metrics": metrics,
        "public": list(topology.public),
        "carried": {
            n.name: list(carried)
            for n in topology.segments
            if (carried := carried_over(topology, n.name))
        },
    }


def _pairs(links: LinkNames) -> dict[str, list[str | None]]:
    """Both links of every value by name, (activation, cotangent).

    Raises:
        ValueError: if it is no dictionary, or there is a link itself, which no file
            could hold.
    """
    if not isinstance(links, Mapping):
        raise ValueError(
            "`links` must be a dictionary of names of links by value, "
            f"got {type(links).__name__}."
        )
    found = {}
    for name, x in links.items():
        if isinstance(x, Link):
            raise ValueError(
                f'`links` of `{name}` must be a name, as "quantize(8)", '
                "from which each party makes the link."
            )
        # One name stands for both ways, as one link does in `jsplit.fused`.
        found[name] = list(x) if isinstance(x, (list, tuple)) else [x, x]
    return found
