"""Cotangents that came back go through the pullback of the link that the value was sent by.

A link whose noise has a size that is learned needs the noise that it drew once more. It
follows from the same key, so nothing is kept of the way out.
"""

from __future__ import annotations

import jax

from jsplit.core.base import PyTree
from jsplit.training.config import Config
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.randomness import link_key, link_key_names
from jsplit.training.walk import Name, Op, Wire


def pull_ops(config: Config, back: Wire, received: Name) -> list[Op]:
    """One operation where the link of the activation has a pullback, or none.

    Args:
        config: whose links are used.
        back: the message of the cotangent.
        received: where it lies at the party that sent the activation.
    """
    link = config.links.get((WireKind.ACTIVATION, back.what))
    if link is None or link.pull is None:
        return []
    pull, party = link.pull, back.receiver
    out = Wire(WireKind.ACTIVATION, back.what, party, back.sender)

    def run(cotangent: PyTree, value: PyTree, *key: jax.Array):
        return (pull(value, cotangent, link_key(out, link, True, *key)),)

    value = Name(party, Kind.VALUE, back.what)
    reads = (received, value, *link_key_names(config, out, link, True))
    return [Op(party, OpKind.PULL, back.label, reads, (received,), run)]
