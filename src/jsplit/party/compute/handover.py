"""What one party has learned in a role, as arrays for the next that plays it: all of its state but key and step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState
from jsplit.party.contract import schema as shapes
from jsplit.wire.codec import Shapes

_HANDED = ("params", "state", "optimizer", "links")


def learned(state: PartyState) -> list[Any]:
    """Parameters, statistics, optimizer state and memory of links, as arrays; `taken` is the inverse."""
    return [
        jax.random.key_data(x) if _is_key(x) else x
        for x in jax.tree.leaves(_parts(state))
    ]


def taken(state: PartyState, arrays: Iterable[Any]) -> PartyState:
    """A party's state with what another has learned in its place."""
    own, structure = jax.tree.flatten(_parts(state))
    found = [
        jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(y))
        if _is_key(y)
        else jnp.asarray(x)
        for x, y in zip(arrays, own, strict=True)
    ]
    return state._replace(**jax.tree.unflatten(structure, found))


def shapes_of_learned(state: PartyState) -> Shapes:
    """Dtypes and shapes of what `learned` gives. Computes nothing."""
    return shapes.arrays(jax.eval_shape(learned, state))


def _parts(state: PartyState) -> dict[str, Any]:
    return {part: getattr(state, part) for part in _HANDED}


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(
        np.result_type(x) if np.isscalar(x) else x.dtype, jax.dtypes.prng_key
    )
