"""Keys and secrets go into a compiled step beside the state, and stay outside when it comes back.

A compiled program hands typed keys back slowly, and never changes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jsplit.core.base import PartyState, PyTree, TrainState

Keys = Mapping[str, tuple[jax.Array, jax.Array | None]]


def keys_of(state: TrainState) -> dict[str, tuple[jax.Array, jax.Array | None]]:
    """The key of every party, and its secret."""
    return {party: (own.key, own.secret) for party, own in state.parties.items()}


def swap_keys(state: TrainState, keys: Keys | None = None) -> TrainState:
    """The state with other keys, or with none."""
    found = {}
    for party, own in state.parties.items():
        # `None`, a pytree without leaves, where there is none.
        key: PyTree
        key, secret = keys[party] if keys else (None, None)
        found[party] = PartyState(
            own.params,
            own.state,
            own.optimizer,
            own.links,
            key,
            own.step,
            secret,
            own.strengths,
        )
    return TrainState(found)
