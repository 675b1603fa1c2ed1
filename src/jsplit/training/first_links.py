"""What the ends of messages remember at first: the memory of links, and a loss scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jsplit.core.base import PyTree
from jsplit.core.trees import inexact_part
from jsplit.training.config import Config
from jsplit.training.crossing import crossing_part
from jsplit.training.kinds import WireKind
from jsplit.training.loss_scale import first_scales
from jsplit.training.unscaled import seen
from jsplit.training.wires import wires


def first_links(
    config: Config, parties: Collection[str], values: Mapping[str, PyTree]
) -> dict[str, dict[str, PyTree]]:
    """The first memory of the links of some parties' messages, and a dynamic loss scale.

    Args:
        config: of the training.
        parties: whose memory it is.
        values: shapes of all values that these parties send or receive.

    Returns:
        By party, by the label of the message.
    """
    links: dict[str, dict[str, PyTree]] = {p: first_scales(config) for p in parties}
    for wire in wires(config.topology):
        link = config.links.get((wire.kind, wire.what))
        if link is None:
            continue
        ends = {wire.sender: link.init}
        if link.receiver is not None:
            # A memory each, also where both are alike: they are two parties'.
            ends[wire.receiver] = link.receiver.init
        for party in links.keys() & ends.keys():
            like = values[wire.what]
            # A cotangent has the structure of its value, without what
            # is not floating.
            like = like if wire.kind == WireKind.ACTIVATION else inexact_part(like)
            like = seen(config, wire, crossing_part(config, wire, like))
            links[party][wire.label] = ends[party](like)
    return links
