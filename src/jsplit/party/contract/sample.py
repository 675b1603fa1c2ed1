"""A small agreement for the examples in docstrings: two parties, one number a record.

The examples of `jsplit.party.agreement` and `jsplit.party.run` spell all of it out.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.draft import agreement
from jsplit.party.contract.turns import turns
from jsplit.topology.configurations import vanilla


def sample_agreement(*clients: str) -> Agreement:
    """An agreement of `client` and `server` on 10 steps of 4 records.

    Args:
        *clients: if given, parties that take turns of 2 steps each in the role
            `client`.

    Returns:
        The agreement; `x` crosses as `h` to the server, which holds the labels.
    """
    bottom = without_parameters(lambda x: 2 * x, "x", "h")
    top = without_parameters(lambda h: h + 1, "h", "y")
    rotation = None
    if clients:
        casts = {name: {"client": name} for name in clients}
        rotation = turns(casts, order=[(name, 2) for name in clients])
    return agreement(
        vanilla(bottom, top, loss=optax.squared_error),
        {"x": jnp.ones((4, 3)), "label": jnp.ones((4, 3))},
        steps=10,
        addresses={"server": "localhost:8476"},
        # Only so that the examples of links have something to show.
        links={"h": "quantize(8)"},
        turns=rotation,
    )


def without_parameters(
    fn: Callable[[jax.Array], jax.Array], reads: str, name: str
) -> Segment:
    """A segment as `jsplit.segment` makes it of a function; this room knows no Flax."""

    # Positional and with `train`, as all segments are called, whatever they need.
    def init(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        return fn(*inputs), state

    return Segment(init, apply, (reads,), name, trainable=False)
