"""Decoupled split learning: a party with a loss of its own waits for no cotangent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax

from jsplit.core.base import Segment
from jsplit.core.checks import shown
from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
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
    """A topology whose party that makes `value` learns from an auxiliary head instead.

    No cotangent of `value` comes back. The segments before it train on the
    local loss alone; whoever receives the value trains on it as it is. Any
    trainer and any algorithm over rounds takes the result. For several
    cuts, call it once for each.

    Args:
        topology: Any topology.
        value: What crosses, by the name of the node that makes it.
        head: The auxiliary segment, run where the value is made and thrown
            away after training. It reads the value alone.
        loss: `loss(output of the head, label)`, a scalar or one number per
            example.
        label: The field that the loss reads. The party holds it from now
            on: a local loss needs labels.
        weight: Weight of the local loss in the objective.

    Returns:
        A new topology, with the node `<value> head` and the loss `<value>
        loss`.

    Raises:
        ValueError: If `value` does not cross, if a loss elsewhere reads it
            itself, so that its cotangent must come back, or if `label` is
            no field.

    References:
        Belilovsky et al., `Decoupled greedy learning of CNNs
        <https://arxiv.org/abs/1901.08164>`_, 2020, Algorithm 1, with the
        cut in the place of each layer; in federated split learning: Han et
        al., Accelerating federated learning with split learning on locally
        generated losses, 2021.

    Example:
        >>> import jsplit
        >>> init = lambda key, x: 1.0
        >>> part = jsplit.segment(lambda w, x: w * x, init=init)
        >>> topology = jsplit.vanilla(part, part, loss=max)
        >>> topology.crossings[0].returns
        True
        >>> jsplit.decoupled(topology, "smashed", part, loss=max).crossings[0].returns
        False
    """
    _check(topology, value, label)
    party = topology.node[value].party
    nodes: list[Node | Loss | Metric] = []
    for n in topology.nodes:
        if value in n.reads and n.party != party:
            if isinstance(n, Loss):
                raise ValueError(
                    f"the loss `{n.name}` at `{n.party}` reads `{value}` itself, "
                    "so its cotangent must come back."
                )
            if isinstance(n, Node):  # a metric gives no cotangent anyway
                n = replace(n, detached=(*n.detached, value))
        nodes.append(n)

    # Not detached at home: this is the path by which the party's own segments learn.
    nodes.append(Node(f"{value} head", head, party, [value]))
    nodes.append(Loss(f"{value} loss", loss, party, [f"{value} head", label], weight))

    holds = {p: list(fields) for p, fields in topology.holds.items()}
    # A party that has the label already (in a U, say) must not hold it twice.
    holds[party] = [*dict.fromkeys([*holds.get(party, ()), label])]
    return Topology(nodes, holds, public=topology.public)


def _check(topology: Topology, value: str, label: str) -> None:
    # A crossing that does not return is refused as well: there is nothing to decouple,
    # and whoever asks for it has mistaken the value.
    returning = dict.fromkeys(c.name for c in topology.crossings if c.returns)
    if value not in returning:
        there = ", ".join(returning) or "none"
        raise ValueError(
            "`value` must be a value whose cotangent comes back, "
            f"got {shown(value)}; there are {there}."
        )
    if label not in topology.fields:
        there = ", ".join(topology.fields)
        raise ValueError(
            f"`label` must be a field, got {shown(label)}; there are {there}."
        )
