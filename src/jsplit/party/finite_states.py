"""A checkpoint is finite, or it is neither written nor gone on from.

Else a peer could spoil all that a party has kept: finite values of 3e38 pass as what
they are, and make parameters infinite. What is infinite by design stays allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState, PyTree
from jsplit.training.verdicts import NotFinite


class FiniteStates:
    """Which states of a party may be kept.

    Args:
        like: its first state. An array that is infinite there, as a least value so
            far, may be so later.
        anything: whether any state may be kept.
        moving: takes away of a state what no step changes, which is not looked at.
    """

    def __init__(
        self,
        like: PartyState,
        *,
        anything: bool = False,
        moving: Callable[[PartyState], PartyState] | None = None,
    ):
        self.moving = moving
        # Flags and no arrays: a party without a folder would hold its parameters once
        # more.
        self.allowed: dict[str, list[int]] = {}
        for what, tree in _parts(moving(like) if moving else like):
            self.allowed[what] = [
                _NAN if anything else max(_worst(x), _by_kind(what, x))
                for x in jax.tree.leaves(tree)
            ]

    def faults(self, state: PartyState) -> list[str]:
        """Name what is not finite and should be.

        Args:
            state: of the structure of the first one.

        Returns:
            One text for each part, as "parameters of `h`".
        """
        found: list[str] = []
        for what, tree in _parts(self.moving(state) if self.moving else state):
            pairs = zip(jax.tree.leaves(tree), self.allowed[what], strict=True)
            if any(_worst(x) > allowed for x, allowed in pairs):
                found.append(what)
        return found

    def check(self, state: PartyState) -> None:
        """Refuse a state that is not to be kept.

        Raises:
            NotFinite: saying of which step it is, and what is not finite.
        """
        if found := self.faults(state):
            raise NotFinite(
                f"the state after step {int(state.step)} is not finite, and none to go "
                f"on from: {', '.join(found)}. Older checkpoints are whole."
            )


_OPTIMIZER = "its optimizer state"
_FINITE, _INFINITE, _NAN = range(3)
"""What is worst in an array, from good to bad."""


def _parts(state: PartyState) -> Iterator[tuple[str, PyTree]]:
    """What a party keeps, part by part, in words."""
    # The words of `jsplit.NotFinite`, which is met more often.
    for name, tree in state.params.items():
        yield f"parameters of `{name}`", tree
    for name, tree in state.state.items():
        yield f"statistics of `{name}`", tree
    yield _OPTIMIZER, state.optimizer
    for name, tree in state.links.items():
        yield f"the memory of the link of `{name}`", tree


def _by_kind(what: str, x: PyTree) -> int:
    """What may be in an array of a kind, whatever is in it at first."""
    # As `jsplit.core.finite.has_no_fault`: a number of an optimizer, as the best loss so
    # far, may be infinite.
    return _INFINITE if what == _OPTIMIZER and not np.shape(x) else _FINITE


def _worst(x: PyTree) -> int:
    """What is worst in an array."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return _FINITE
    # By NumPy: what is saved is on the host anyway, and nothing is compiled for it.
    array = np.asarray(x)
    if np.isfinite(array).all():
        return _FINITE
    return _NAN if np.isnan(array).any() else _INFINITE
