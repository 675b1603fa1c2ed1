"""First states as arrays of their own, which a step may use up; what no step changes is shared."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.training.config import Config
from jsplit.training.keys_apart import apart_of, swap
from jsplit.training.store import PartyLayout, layout_of


def copied(config: Config, states: Mapping[str, PartyState]) -> dict[str, PartyState]:
    """States whose arrays are their own, but for those that no step changes.

    Args:
        config: of the training.
        states: by party.
    """
    layout = layout_of(config)
    return {p: copy_of(own, layout[p]) for p, own in states.items()}


def copy_of(own: PartyState, at: PartyLayout) -> PartyState:
    """A state of one party whose arrays are its own, but for those that no step changes.

    Args:
        own: the state.
        at: what of it no step changes.
    """
    if not at.frozen:
        return jax.tree.map(_copy, own)
    # Whose state it is has no part in this.
    layout, state = {"": at}, TrainState({"": own})
    kept = apart_of(layout, state)
    frozen = jax.tree.map(_as_it_is, kept.frozen)
    kept = kept._replace(keys=jax.tree.map(_copy, kept.keys), frozen=frozen)
    return swap(layout, jax.tree.map(_copy, swap(layout, state)), kept).parties[""]


def _copy(x: PyTree) -> jax.Array:
    return jnp.array(x, copy=True)


def _as_it_is(x: PyTree) -> jax.Array:
    # An array of NumPy's could yet be changed by who holds it.
    return x if isinstance(x, jax.Array) else _copy(x)
