"""What a server has of each step of a training that it watches: traffic, and its own segment.

Its segment changes from step to step, and is no message, so that it stands beside the traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Params, State
from jsplit.core.checks import shown
from jsplit.privacy.attacks.inputs.seen import received
from jsplit.privacy.attacks.inputs.simulating import Came
from jsplit.privacy.traffic import Traffic


class Watched(NamedTuple):
    """One step of a training as the server has it.

    Attributes:
        traffic: what it saw of that step: activations, and labels where it holds them.
        params: of its own segment, as they were in that step.
        state: statistics of its own segment.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, Watched
        >>> seen = Traffic("server", jnp.zeros(2, int), {"h": jnp.ones((2, 3))})
        >>> Watched(seen, {"weight": jnp.ones((3, 2))}).state
        {}
    """

    traffic: Traffic
    params: Params
    state: State = {}


def came_in(item: Watched, value: str | None, label: str, conditioned: bool) -> Came:
    """What a step told, in arrays."""
    h = received(item.traffic, value)
    if not conditioned:
        return Came(h, jnp.zeros(len(h), jnp.int32), item.params, item.state)
    held = item.traffic.fields.get(label)
    if held is None:
        raise ValueError(
            f"`training` has no field {shown(label)} of the server's: where the client "
            "has the labels, as in a U-shape, give the form of its `head`."
        )
    found = jnp.asarray(np.asarray(held), jnp.int32)
    if found.shape != (len(h),):
        raise ValueError(
            f"`training` must hold a class of each of {len(h)} records as "
            f"{shown(label)}, got {found.shape}."
        )
    return Came(h, found, item.params, item.state)


def noise_like(came: Came, key: jax.Array) -> Came:
    """The same step where activations tell nothing: of their mean and deviation."""
    drawn = jax.random.normal(key, came.h.shape)
    return came._replace(h=came.h.mean(0) + came.h.std(0) * drawn)
