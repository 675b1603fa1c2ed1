"""What the ends of messages remember at first: the memory of links, and a loss scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.links import encode_by
from jsplit.core.trees import inexact_part, is_floating
from jsplit.jaxprs.passed_on import passed_on
from jsplit.training.config import Config
from jsplit.training.crossing import crossing_part
from jsplit.training.kinds import WireKind
from jsplit.training.loss_scale import first_scales
from jsplit.training.unscaled import seen
from jsplit.training.wires import wires


def _refuse_idle(link: Link, like: PyTree, where: str) -> None:
    """Refuse a link that looks as if it changed numbers, and would send them as they are.

    Args:
        link: of a message; one that sends floating arrays as they are too may do so.
        like: shapes of what is sent.
        where: the link, in words.

    Raises:
        ValueError: if it sends complex numbers as they are, or if nothing is floating and
            it sends all so.
    """
    leaves = jax.tree.leaves(like)
    has_floating = any(map(is_floating, leaves))
    complexes = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.complexfloating)]
    # Floating arrays that a link leaves as they are, since they are few, it leaves so on
    # purpose; whole numbers go beside them.
    if not leaves or (has_floating and not complexes):
        return
    floats = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), like)
    if all(_sent_as_is(link, floats)):
        return
    sent_as_is = _sent_as_is(link, like)
    if not has_floating and all(sent_as_is):
        dtypes = ", ".join(dict.fromkeys(str(x.dtype) for x in leaves))
        raise ValueError(
            f"{where} sends all of it as it is: nothing there is floating, but {dtypes}. "
            "Leave it out of `links`, or give a link that is for such numbers."
        )
    pairs = zip(leaves, sent_as_is, strict=True)
    if any(x.dtype == c.dtype for x, is_same in pairs for c in complexes if is_same):
        raise ValueError(
            f"{where} sends complex numbers as they are, {complexes[0].dtype}: let the "
            "real and the imaginary part cross, or give a link that is for such numbers."
        )


def _sent_as_is(link: Link, like: PyTree) -> list[bool]:
    """By array of a value, whether it is in the payload as it came."""
    count = len(jax.tree.leaves(like))
    first = link.init(like)
    own = dict.fromkeys(link.reads) | dict.fromkeys(link.strengths, 1.0)

    def payload(value: PyTree) -> PyTree:
        return encode_by(link, first, value, jax.random.key(0), own)[0]

    passed = {*passed_on(jax.make_jaxpr(payload)(like))}
    return [i in passed for i in range(count)]


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

    Raises:
        ValueError: if a link leaves as it is what it should change.
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
            _refuse_idle(link, like, f"the link of the {wire.kind} `{wire.what}`")
            links[party][wire.label] = ends[party](like)
    return links
