"""A party begins a run with what it was given: parameters, statistics and optimizer.

What belongs to the run is of the run: its steps are counted from 0 and its seed is the agreed
one. A secret key is a new one, since the same noise drawn twice is none; and what links
remember begins anew, since the other end of a link must have the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState, PyTree
from jsplit.core.checks import shown
from jsplit.core.donation import refuse_used_up
from jsplit.core.typed_jax import keystr, leaves_with_path
from jsplit.party.finite_states import FiniteStates
from jsplit.party.kept_epochs import copied

_KEPT = ("params", "state", "optimizer", "strengths")


def begun_with(first: PartyState, given: PartyState, *, anything: bool) -> PartyState:
    """A first state with what was learned before.

    Args:
        first: as the run would begin without it.
        given: of the same party, after any training.
        anything: whether it may hold what is not finite.

    Returns:
        A copy: what is given stays the caller's.

    Raises:
        ValueError: if `given` is of another party, model or optimizer, or not finite.
    """
    if not isinstance(given, PartyState):
        raise ValueError(
            "`state` must be of this party alone, a jsplit.PartyState or what "
            f"jsplit.party.fit gave, got {shown(given)}."
        )
    refuse_used_up(given)
    for part in _KEPT:
        _check_same(part, getattr(first, part), getattr(given, part))
    begun = first._replace(**{part: getattr(given, part) for part in _KEPT})
    if not anything and (faults := FiniteStates(first).faults(begun)):
        raise ValueError(f"`state` is not finite: {', '.join(faults)}.")
    return copied(begun)


def _check_same(part: str, wanted: PyTree, found: PyTree) -> None:
    """Refuse what has other paths, shapes or dtypes; no value is said."""
    ours, theirs = _by_path(wanted), _by_path(found)
    for path in sorted({*ours} | {*theirs}):
        if ours.get(path) != theirs.get(path):
            raise ValueError(
                f"`state` is of another model or optimizer: its `{part}{path}` is "
                f"{theirs.get(path, 'not there')}, here it is "
                f"{ours.get(path, 'not there')}."
            )
    if jax.tree.structure(wanted) != jax.tree.structure(found):
        raise ValueError(
            f"`state` is of another model or optimizer: its `{part}` has another form."
        )


def _by_path(tree: PyTree) -> dict[str, str]:
    """In words, the dtype and shape of each array."""
    return {
        keystr(path): f"{jnp.result_type(x)}{list(jnp.shape(x))}"
        for path, x in leaves_with_path(tree)
    }
