"""What one party has learned in a role, as arrays for the next that plays it.

It is all of a party's state but key and step, which all parties have in
common, and what no step changes, which each has from the start.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.keys import is_key
from jsplit.party.contract import schema as shapes
from jsplit.training.keys_apart import apart_of, swap
from jsplit.training.store import Layout
from jsplit.wire.codec import Shapes

# Fields of a `PartyState`, in the order in which their arrays follow
# one another.
_HANDED = ("params", "state", "optimizer", "links")


def learned(state: PartyState, layout: Layout) -> list[jax.Array]:
    """Trained parameters, statistics, optimizer state and memory of links, as arrays.

    `taken` is the inverse.
    """
    # Frames carry numbers: a typed key in a state goes as what it is
    # made of.
    return [
        jax.random.key_data(x) if is_key(x) else x
        for x in jax.tree.leaves(_parts(state, layout))
    ]


def taken(state: PartyState, layout: Layout, arrays: Iterable[ArrayLike]) -> PartyState:
    """A party's state with what another has learned in its place.

    Args:
        state: of the party that takes over, for its structure.
        layout: of that party alone.
        arrays: as `learned` gives them.

    Returns:
        The state, with the party's own key and step.
    """
    own, structure = jax.tree.flatten(_parts(state, layout))
    found = []
    for x, old in zip(arrays, own, strict=True):
        x = on_device(x)
        # Which generator a key is of does not cross: it is that of the
        # key in its place.
        if is_key(old):
            x = jax.random.wrap_key_data(x, impl=jax.random.key_impl(old))
        found.append(x)
    new = state._replace(**jax.tree.unflatten(structure, found))
    (party,) = layout
    before, after = TrainState({party: state}), TrainState({party: new})
    return swap(layout, after, apart_of(layout, before)).parties[party]


def on_device(x: ArrayLike) -> jax.Array:
    """An array that was handed over, in memory of its own on the device."""
    return jnp.asarray(x)


def shapes_of_learned(state: PartyState, layout: Layout) -> Shapes:
    """Dtypes and shapes of what `learned` gives. Computes nothing."""
    return shapes.arrays(jax.eval_shape(lambda x: learned(x, layout), state))


def _parts(state: PartyState, layout: Layout) -> dict[str, PyTree]:
    (party,) = layout
    state = swap(layout, TrainState({party: state})).parties[party]
    return {part: getattr(state, part) for part in _HANDED}
