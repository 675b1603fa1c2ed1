"""Checkpoints of a party without a folder, and which checkpoints are kept anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState
from jsplit.party.base import Base
from jsplit.party.finite_states import FiniteStates
from jsplit.wire.rota import Away


def _copied(state: PartyState) -> PartyState:
    """A state whose buffers nobody else has: those of the original may be donated."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


def oldest_kept(steps: Iterable[int], committed: int) -> int:
    """The step from which on checkpoints are kept: the one before the one all have."""
    # One more than needed if nothing is damaged; if the newest is, at any
    # party, all go back to it.
    return max((s for s in steps if s < committed), default=committed)


class InMemory:
    """Checkpoints that die with the process, in the place of a `CheckpointStore`.

    Another party's fault is made good by them, this party's own death is
    not.

    Args:
        sound: which states may be kept.
        base: what no step changes of them, of which no copy is made.
    """

    def __init__(self, sound: FiniteStates, base: Base | None = None) -> None:
        self.sound, self.base = sound, base
        self.kept: dict[int, PartyState] = {}
        self.instance = time.time_ns()

    def close(self) -> None:
        """There is nothing to let go of."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints, in order."""
        return tuple(sorted(self.kept))

    def restore(self, step: int) -> PartyState:
        """The state of a step, as it was saved."""
        kept = _copied(self.kept[step])
        return self.base.whole(kept) if self.base else kept

    def save(self, state: PartyState) -> None:
        """Keep a copy of the state.

        Raises:
            NotFinite: if it is not finite.
        """
        self.sound.check(state)
        moving = self.base.moving(state) if self.base else state
        self.kept[int(state.step)] = _copied(moving)

    def prune_before(self, committed: int) -> None:
        """Forget what is older than the step that all have, and the one before it."""
        first = oldest_kept(self.kept, committed)
        self.kept = {s: x for s, x in self.kept.items() if s >= first}

    def discard_after(self, step: int) -> None:
        """Forget what is newer than a step from which others went on differently."""
        self.kept = {s: x for s, x in self.kept.items() if s <= step}

    def remember(self, away: Away) -> None:
        """Nothing is noted: a process that comes after this one could not read it."""

    def away(self) -> Away:
        """Nobody: no process was before this one."""
        return ()

    def finish(self, steps: int, awaited: Iterable[str] = ()) -> None:
        """Nothing is noted."""

    def done(self, steps: int) -> list[str] | None:
        """`None`: no run was before this one."""
        return None
