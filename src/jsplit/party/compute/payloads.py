"""Shapes of what crosses, and names of what a party must bring, as that party knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import first_line
from jsplit.core.trees import describe
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.unread import whole
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.kinds import WireKind
from jsplit.training.own_reads import fields_of_links
from jsplit.training.unscaled import seen
from jsplit.training.walk import Wire


def payload_and_value(
    agreed: Agreement, config: Config, wires: Sequence[Wire], wire: int, size: int
) -> tuple[PyTree, PyTree]:
    """Shapes of a wire's payload, and of its whole value, in a batch of `size`.

    Args:
        agreed: what the parties have agreed on.
        config: of the training.
        wires: all of a step.
        wire: which of them.
        size: how many examples.

    Raises:
        ValueError: if its link does not run on these shapes.
    """
    at = wires[wire]
    value = agreed.value(at, size)
    if at.kind == WireKind.SCALAR:
        return value, value
    link = config.links.get((at.kind, at.what))
    try:
        payload = shapes.encoded(link, seen(config, at, value))
    except Exception as error:
        raise ValueError(
            f"the link of `{at.what}` does not run on {describe(value)}: "
            f"{first_line(error)}"
        ) from error
    return payload, whole(agreed, at, size)


def needed_entries(
    topology: Topology,
    party: str,
    task: str,
    weight: str,
    links: Mapping[tuple[str, str], Link],
) -> list[str]:
    """The entries of data that a party must bring to a task.

    Args:
        topology: who computes what.
        party: as the topology calls it.
        task: "train", "evaluate" or "predict".
        weight: the name of the weights of records, if they have any.
        links: by kind of message and name of the value.
    """
    # Labels are asked of nobody who only predicts.
    with_losses = task != "predict"
    readers = [*topology.segments, *(topology.losses if with_losses else ())]
    readers += topology.metrics if task == "evaluate" else ()
    own = {i for n in readers if n.party == party for i in n.reads}
    if task == "train":
        own |= fields_of_links(topology, links, party)
    found = sorted(own & {*topology.fields})
    # How much records count is known wherever they are, and wherever a loss is.
    losses = [x for x in topology.losses if x.party == party]
    if weight and with_losses and (found or losses):
        found.append(weight)
    return found
