"""Decoupled split learning: a party with a loss of its own sends its activation and waits for no cotangent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax

from jsplit.core.base import Segment
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node


def decoupled(
    topology: Topology,
    value: str,
    head: Segment,
    *,
    loss: Callable[..., jax.Array],
    label: str = "label",
    weight: float = 1.0,
) -> Topology:
    """The topology in which the party that makes `value` learns from an auxiliary head, and no cotangent of it comes back.

    Its segments train on the local loss alone; whoever receives the value trains on it as it is. Any trainer and any
    algorithm over rounds takes the result. For several cuts, call it once for each.

    Args:
        topology: any.
        value: what crosses, by the name of the node that makes it.
        head: the auxiliary segment, run where the value is made and thrown away after training.
        loss: `loss(output of the head, label)`, a scalar or one number per example.
        label: the field that the loss reads. The party holds it from now on: a local loss needs labels.
        weight: of the local loss.

    Raises:
        ValueError: if `value` does not cross, or no cotangent of it comes back anyway.

    References:
        Belilovsky et al., `Decoupled greedy learning of CNNs <https://arxiv.org/abs/1901.08164>`_, 2020, Algorithm 1, with
        the cut in the place of each layer; in federated split learning: Han et al., Accelerating federated
        learning with split learning on locally generated losses, 2021.
    """
    returning = [c for c in topology.crossings if c.name == value and c.returns]
    if not returning:
        there = (
            ", ".join(dict.fromkeys(c.name for c in topology.crossings if c.returns))
            or "none"
        )
        raise ValueError(
            f"`value` must be a value whose cotangent comes back, got {value!r}; there are {there}."
        )
    if label not in topology.fields:
        raise ValueError(
            f"`label` must be a field, got {label!r}; there are {', '.join(topology.fields)}."
        )
    party, nodes = topology.node[value].party, []
    for n in topology.nodes:
        if isinstance(n, Node) and n.party != party and value in n.reads:
            n = replace(n, detached=(*n.detached, value))
        elif isinstance(n, Loss) and n.party != party and value in n.reads:
            raise ValueError(
                f"the loss `{n.name}` at `{n.party}` reads `{value}` itself, so its cotangent must come back."
            )
        nodes.append(n)
    nodes.append(Node(f"{value} head", head, party, [value]))
    nodes.append(Loss(f"{value} loss", loss, party, [f"{value} head", label], weight))
    holds = {p: list(fields) for p, fields in topology.holds.items()}
    holds[party] = [*dict.fromkeys([*holds.get(party, ()), label])]
    return Topology(nodes, holds)
