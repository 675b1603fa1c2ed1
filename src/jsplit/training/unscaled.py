"""Cotangents without the loss scale, for links that state numbers or remember some.

What crosses under a `loss_scale` is multiplied by it, so a norm bound or a deviation
would mean something else in every step. Such a link sees what the cotangent is, in
float32 at least, and its receiver multiplies again.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jsplit.core.base import Link, PyTree
from jsplit.core.finite import at_least_float32
from jsplit.core.receiving import remembers
from jsplit.training.config import Config
from jsplit.training.kinds import WireKind
from jsplit.training.loss_scale import scale_names, scale_of
from jsplit.training.walk import Name, Wire


def is_unscaled(config: Config, wire: Wire, link: Link | None) -> bool:
    """Whether a link sees a cotangent without the scale.

    Links that say nothing of numbers and keep nothing, as `quantize`, see what crosses.
    """
    states = link is not None and (
        link.secret or link.mechanism is not None or bool(link.strengths)
    )
    scaled = config.loss_scale is not None and wire.kind == WireKind.COTANGENT
    if link is None or not scaled:
        return False
    # What is remembered of one step would be of another scale in the next.
    return states or remembers(link)


def seen(config: Config, wire: Wire, like: PyTree) -> PyTree:
    """The shapes that a link sees, from those of what crosses."""
    if not is_unscaled(config, wire, config.links.get((wire.kind, wire.what))):
        return like
    # In half precision a quotient would be 0, which is why there is a scale.
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, at_least_float32(x.dtype)), like
    )


def scale_at(config: Config, wire: Wire, link: Link, party: str) -> tuple[Name, ...]:
    """Where a party keeps the scale that it needs for a link, if it keeps one."""
    return scale_names(config, party) if is_unscaled(config, wire, link) else ()


def divided(config: Config, kept: Sequence[PyTree], value: PyTree) -> PyTree:
    """A cotangent without the scale, from what lies at `scale_at`."""
    scale = scale_of(config, kept)
    return jax.tree.map(lambda x: x.astype(at_least_float32(x.dtype)) / scale, value)


def multiplied(
    config: Config, kept: Sequence[PyTree], value: PyTree, like: PyTree
) -> PyTree:
    """A decoded cotangent with the scale, in the dtypes of what the receiver reads."""
    scale = scale_of(config, kept)
    return jax.tree.map(lambda x, s: (x * scale).astype(s.dtype), value, like)
