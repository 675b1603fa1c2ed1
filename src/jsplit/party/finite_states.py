"""A checkpoint is finite, or it is neither written nor gone on from.

Else a peer could spoil all that a party has kept: finite values of 3e38 pass as what
they are, and make parameters infinite. What is infinite by design stays allowed.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState, PyTree
from jsplit.training.verdicts import NotFinite


class FiniteStates:
    """Which states of a party may be kept.

    Args:
        like: its first state. An array that is not finite there, as a least value so
            far, need not be so later.
    """

    def __init__(self, like: PartyState):
        # Flags and no arrays: a party without a folder would hold its parameters once
        # more.
        self.by_design: dict[str, list[bool]] = {}
        for what, tree in _parts(like):
            self.by_design[what] = [not _is_finite(x) for x in jax.tree.leaves(tree)]

    def faults(self, state: PartyState) -> list[str]:
        """Name what is not finite and should be.

        Args:
            state: of the structure of the first one.

        Returns:
            One text for each part, as "parameters of `h`".
        """
        found: list[str] = []
        for what, tree in _parts(state):
            of_optimizer = what == _OPTIMIZER
            pairs = zip(jax.tree.leaves(tree), self.by_design[what], strict=True)
            fine = (by_design or _is_fine(x, of_optimizer) for x, by_design in pairs)
            if not all(fine):
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


def _is_fine(x: PyTree, of_optimizer: bool) -> bool:
    """As `jsplit.core.finite.has_no_fault` of one array, on the host."""
    # A number of an optimizer may be infinite, as the best loss so far, and never NaN.
    if of_optimizer and not np.shape(x):
        return not (_floats(x) and bool(np.isnan(np.asarray(x))))
    return _is_finite(x)


def _is_finite(x: PyTree) -> bool:
    # By NumPy: what is saved is on the host anyway, and nothing is compiled for it.
    return not _floats(x) or bool(np.isfinite(np.asarray(x)).all())


def _floats(x: PyTree) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)
