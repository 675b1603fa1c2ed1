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
from jsplit.training.kinds import Kind
from jsplit.training.store import Layout
from jsplit.training.walk import Name, Store


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
        for name, (other, changes) in at.frozen.items():
            # A state of another trainer is refused where it is loaded.
            if party in state.parties and name.what in _of(state.parties[party], name):
                held = _of(state.parties[party], name)[name.what]
                frozen[other] = divided(changes, held)[1]
    return Apart(keys, frozen)


def _of(own: PartyState, name: Name) -> Mapping[str, PyTree]:
    return own.params if name.kind == Kind.PARAMS else own.state


def swap(layout: Layout, state: TrainState, apart: Apart | None = None) -> TrainState:
    """The state with other such parts, or with none."""
    found = {}
    for party, own in state.parties.items():
        # `None`, a pytree without leaves, where there is none.
        key: PyTree
        key, secret = apart.keys[party] if apart else (None, None)
        params, states = own.params, own.state
        at = layout.get(party)
        if at is not None and at.frozen:
            params, states = dict(params), dict(states)
            for name, (other, changes) in at.frozen.items():
                held = params if name.kind == Kind.PARAMS else states
                if apart is None and name.what in held:
                    held[name.what], _ = divided(changes, held[name.what])
                elif apart is not None and other in apart.frozen:
                    held[name.what] = joined(held[name.what], apart.frozen[other])
        found[party] = PartyState(
            params,
            states,
            own.optimizer,
            own.links,
            key,
            own.step,
            secret,
            own.strengths,
        )
    return TrainState(found)
