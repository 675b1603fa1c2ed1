"""What a step never changes goes into its program beside the state, and stays outside when
that comes back: keys, secrets and frozen parameters.

A compiled program hands typed keys back slowly, and would copy frozen parameters or, where
it may use up its state, give them back in the place of the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.frozen import divided, joined
from jsplit.training.store import Layout
from jsplit.training.walk import Store


class Apart(NamedTuple):
    """What a step never changes of a state.

    Attributes:
        keys: the key of every party, and its secret.
        frozen: frozen parameters, by name.
    """

    keys: Mapping[str, tuple[jax.Array, jax.Array | None]]
    frozen: Store


def apart_of(layout: Layout, state: TrainState) -> Apart:
    """What a step never changes of a state."""
    keys = {party: (own.key, own.secret) for party, own in state.parties.items()}
    frozen: Store = {}
    for party, at in layout.items():
        # A state of another trainer is refused where it is loaded.
        held = state.parties[party].params if party in state.parties else {}
        for n, name in at.frozen.items():
            if n in held:
                frozen[name] = divided(at.trains[n], held[n])[1]
    return Apart(keys, frozen)


def swap(layout: Layout, state: TrainState, apart: Apart | None = None) -> TrainState:
    """The state with other such parts, or with none."""
    found = {}
    for party, own in state.parties.items():
        # `None`, a pytree without leaves, where there is none.
        key: PyTree
        key, secret = apart.keys[party] if apart else (None, None)
        params = own.params
        at = layout.get(party)
        if at is not None and at.frozen:
            params = dict(params)
            for n, name in at.frozen.items():
                if apart is None and n in params:
                    params[n], _ = divided(at.trains[n], params[n])
                elif apart is not None and name in apart.frozen:
                    params[n] = joined(params[n], apart.frozen[name])
        found[party] = PartyState(
            params,
            own.state,
            own.optimizer,
            own.links,
            key,
            own.step,
            secret,
            own.strengths,
        )
    return TrainState(found)
