"""How large a loss scale is: a number, or a rule by which it follows what overflows.

The rule is a function of what all parties know of a step, whether it was left out, so
each party keeps the same scale for itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.checks import as_positive_int, shown


class ScaleMemory(NamedTuple):
    """What each party keeps of a dynamic scale.

    Attributes:
        scale: of the next step, float32 [].
        finite: how many steps it has had without one that was left out, int32 [].
    """

    scale: jax.Array
    finite: jax.Array


@dataclass(frozen=True)
class DynamicScale:
    """A loss scale that shrinks when something overflows, and grows after a while without.

    Small numbers are 0 in float16, as in a model of `mixed_precision`, and cotangents
    are small. So these are multiplied by a scale where they begin, at the losses, and
    gradients are divided by it in float32 before anything is done with them: norms are
    those of gradients without it, and so are reported losses. A step in which a gradient,
    or anything that a party keeps, is not finite, or a class number is out of range, is
    left out at all parties, and all change the scale alike. Powers of two change no bit
    of numbers that fit a dtype.

    Cotangents cross as they are, scaled, and so links see them; what a link with a memory
    still owes is of the scale that was when it came.

    Each party keeps the scale as `links["loss scale"]` of its state, so it is in
    checkpoints, and in rounds goes from client to client or is each client's own, as
    memories of links are.

    Attributes:
        initial: the first scale.
        growth: by what the scale is multiplied after `interval` steps.
        interval: so many steps one after the other without one that was left out.
        backoff: by what the scale is multiplied when a step is left out.
        floor: the least scale.

    Example:
        >>> import jsplit
        >>> jsplit.DynamicScale(interval=500)
        DynamicScale(initial=32768.0, growth=2.0, interval=500, backoff=0.5, floor=1.0)
    """

    initial: float = 2.0**15
    growth: float = 2.0
    interval: int = 2000
    backoff: float = 0.5
    floor: float = 1.0

    def __post_init__(self):
        as_positive_int("interval", self.interval)
        for name in (x.name for x in fields(self) if x.name != "interval"):
            # Frozen, so that a trainer's programs stay those of its arguments.
            object.__setattr__(self, name, as_scale(name, getattr(self, name)))
        if self.growth <= 1:
            raise ValueError(f"`growth` must be above 1, got {self.growth}.")
        if self.backoff >= 1:
            raise ValueError(f"`backoff` must be below 1, got {self.backoff}.")
        if self.floor > self.initial:
            raise ValueError(
                f"`floor` must be at most `initial`, {self.initial}, got {self.floor}."
            )


LossScale = DynamicScale | float
"""What a trainer is given as `loss_scale`."""


def as_scale(name: str, value: object) -> float:
    """Check that an argument is a number above 0 that float32 can hold.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ValueError(f"`{name}` must be a number above 0, got {shown(value)}.")
    if not 2.0**-126 <= value < 2.0**128 or not math.isfinite(value):
        raise ValueError(
            f"`{name}` must be a number above 0 that float32 holds, got {shown(value)}."
        )
    return float(value)


def first_scale(dynamic: DynamicScale) -> ScaleMemory:
    """What a party keeps before the first step."""
    return ScaleMemory(jnp.float32(dynamic.initial), jnp.int32(0))


def next_scale(
    dynamic: DynamicScale, memory: ScaleMemory, kept: jax.Array
) -> ScaleMemory:
    """What a party keeps after a step.

    Args:
        dynamic: the rule.
        memory: what it kept before.
        kept: whether the step was kept, bool []; it was left out otherwise.
    """
    scale, finite = memory.scale, memory.finite + 1
    grows = finite >= dynamic.interval
    # Where every gradient is 0 nothing ever overflows but the scale itself, and infinity
    # would not come down again.
    larger = scale * dynamic.growth
    larger = jnp.where(jnp.isfinite(larger), larger, scale)
    smaller = jnp.maximum(scale * dynamic.backoff, dynamic.floor)
    return ScaleMemory(
        jnp.where(kept, jnp.where(grows, larger, scale), smaller),
        jnp.where(kept & ~grows, finite, 0),
    )
