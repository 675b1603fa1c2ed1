"""A scale of cotangents: they are multiplied by it where they begin, gradients divided.

Every party keeps its own copy of a dynamic scale, beside the memories of its links, so
it goes wherever these go: into checkpoints, to the next client, over a network.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import at_least_float32
from jsplit.training.config import Config
from jsplit.training.dynamic_scale import DynamicScale, first_scale, next_scale
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.scalar_exchange import Exchange
from jsplit.training.walk import Name, Op

LABEL = "loss scale"
"""Under which a party keeps its scale. Labels of messages begin with their kind."""


def scale_names(config: Config, party: str) -> tuple[Name, ...]:
    """Where a party keeps its scale, if it keeps one: a fixed number is no state."""
    dynamic = isinstance(config.loss_scale, DynamicScale)
    return (Name(party, Kind.LINK, LABEL),) if dynamic else ()


def is_scale(name: Name) -> bool:
    """Whether a loss scale lies at a name, and not the memory of a link."""
    return name.kind == Kind.LINK and name.what == LABEL


def first_scales(config: Config) -> dict[str, PyTree]:
    """What a party keeps before the first step, by label."""
    if not isinstance(config.loss_scale, DynamicScale):
        return {}
    return {LABEL: first_scale(config.loss_scale)}


def scale_of(config: Config, kept: Sequence[PyTree]) -> jax.Array:
    """The scale, float32 [], from what lies at `scale_names`."""
    return kept[0].scale if kept else jnp.float32(config.loss_scale)


def first_cotangent(
    config: Config,
    value: jax.Array,
    weight: float | jax.Array,
    kept: Sequence[PyTree],
) -> jax.Array:
    """The cotangent of a loss, from which all others come: its weight, times the scale.

    Args:
        config: of the training.
        value: of the loss, [].
        weight: of the loss.
        kept: what lies at `scale_names`.
    """
    cotangent = jnp.full_like(value, weight)
    if config.loss_scale is None:
        return cotangent
    return cotangent * scale_of(config, kept).astype(value.dtype)


def unscale_op(config: Config, party: str, gradients: Sequence[Name]) -> list[Op]:
    """Divide a party's gradients by the scale, before anybody looks at them.

    Args:
        config: of the training.
        party: whose gradients.
        gradients: where they lie, or their sums over micro-batches; what is divided
            lies there as well.

    Returns:
        The operation, or none where there is nothing to divide.
    """
    if config.loss_scale is None or not gradients:
        return []
    at = scale_names(config, party)

    def run(*values):
        scale = scale_of(config, values[: len(at)])

        def divided(x: jax.Array) -> jax.Array:
            # In 16 bits a quotient could be 0 or infinite again.
            wide = at_least_float32(x.dtype)
            return (x.astype(wide) / scale.astype(wide)).astype(x.dtype)

        # XLA makes one division of this and of one that an optimizer does, which rounds
        # otherwise than the two.
        found = jax.tree.map(divided, values[len(at) :])
        return tuple(jax.lax.optimization_barrier(found))

    names = tuple(gradients)
    return [Op(party, OpKind.UNSCALE, "", (*at, *names), names, run)]


def scaled_gradients(
    config: Config, gradients: Sequence[Name]
) -> list[tuple[str, Name]]:
    """What is looked at of gradients that were scaled: in words, and where it lies."""
    # An optimizer that clips makes finite parameters of what a scale made overflow.
    # Without a scale, parameters and memories tell.
    scaled = gradients if config.loss_scale is not None else ()
    reader = {x: f" in `{x.reader}`" if x.reader else "" for x in scaled}
    return [(f"the gradient of `{x.what}`{reader[x]}", x) for x in scaled]


def scale_ops(config: Config, faults: Exchange) -> list[Op]:
    """The scale of the next step, from how many values were not finite at all parties."""
    dynamic = config.loss_scale
    if not isinstance(dynamic, DynamicScale):
        return []

    def run(bad, memory):
        return (next_scale(dynamic, memory, bad[0] == 0),)

    ops = []
    for p in faults.takers:
        at = scale_names(config, p)
        ops.append(Op(p, OpKind.SETTLE, LABEL, (faults.sum(p), *at), at, run))
    return ops
