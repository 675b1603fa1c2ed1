"""What no step changes of one party's state: kept once, and known by its hash.

A checkpoint has what is trained, and the hash of the base that it was trained on, as
`jsplit.save_trained` writes it; the base itself lies beside them, in `<folder>/base`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checkpoint import restore, save
from jsplit.core.files import file_of
from jsplit.core.frozen import divided, joined
from jsplit.training.base_hash import OtherBase, hash_of, hashed, on_base, replaced
from jsplit.training.store import Frozen, Layout
from jsplit.training.walk import Name
from jsplit.wire.codec import Shapes

_HASH: Shapes = ((np.dtype(np.uint8), (32,)),)


class Base:
    """The frozen part of a party's state.

    Args:
        layout: of that party alone.
        like: a state with the frozen parameters, and frozen state.
    """

    def __init__(self, layout: Layout, like: PartyState):
        ((self.party, self.at),) = layout.items()
        # Once: a base is large, and no step changes it.
        self.like = self.frozen_of(like)
        slim = hashed(self.at, like) if self.at.frozen else like
        self.hashes = {
            name: _held(slim, name)["frozen"] for name, _ in self.at.frozen.items()
        }

    def moving(self, state: PartyState) -> PartyState:
        """A state with `None` in the place of what is frozen; `whole` is the inverse."""
        return self._each(state, lambda _, at, tree: divided(at.changes, tree)[0])

    def whole(self, moving: PartyState) -> PartyState:
        """A state on this base."""
        return self._each(
            moving, lambda name, _, tree: joined(tree, _held(self.like, name))
        )

    def frozen_of(self, state: PartyState) -> PartyState:
        """What is frozen of a state, and nothing else; key and step are the state's."""
        kept = PartyState({}, {}, (), {}, state.key, state.step)
        found = self._each(state, lambda _, at, tree: divided(at.changes, tree)[1])
        parts: dict[str, dict[str, PyTree]] = {"params": {}, "state": {}}
        for name in self.at.frozen:
            parts[_part(name)][name.what] = _held(found, name)
        return kept._replace(**parts)

    def slim(self, state: PartyState) -> PartyState:
        """A state as its checkpoint has it, on this base."""
        return self._each(
            state,
            lambda name, at, tree: {
                "trained": divided(at.changes, tree)[0],
                "frozen": self.hashes[name],
            },
        )

    def on(self, slim: PartyState, where: str) -> PartyState:
        """The state that was saved, if it was trained on this base.

        Args:
            slim: as `slim` gives it.
            where: what it is, for the error.

        Raises:
            OtherBase: if it was trained on another.
        """
        if not self.at.frozen:
            return slim
        mine = self.like, self._each(self.like, self._as_slim)
        return on_base(self.at, slim, *mine, where)

    def _as_slim(self, name: Name, _: Frozen, tree: PyTree) -> PyTree:
        return {"trained": tree, "frozen": self.hashes[name]}

    def same(self, state: PartyState) -> bool:
        """Whether a whole state is on this base."""
        found = self._each(state, lambda _, at, tree: divided(at.changes, tree)[1])
        return all(
            np.array_equal(hash_of(_held(found, name)), self.hashes[name])
            for name in self.at.frozen
        )

    # On disk.

    def save(self, folder: Path) -> None:
        """Write the base durably, if there is one and it is not there."""
        if self.at.frozen and not file_of(folder / "base", self.party).is_file():
            save(folder / "base", TrainState({self.party: self.like}))

    def saved(self, folder: Path) -> Base:
        """The base that lies in a folder; this one, if there is none.

        Raises:
            ValueError: if its file is damaged, or of another model.
        """
        if not self.at.frozen or not file_of(folder / "base", self.party).is_file():
            return self
        found = restore(folder / "base", TrainState({self.party: self.like}))
        return Base({self.party: self.at}, found.parties[self.party])

    # Between clients that play one role.

    @property
    def handed(self) -> list[jax.Array]:
        """What goes before all that is handed over: the hash of the base, if there is one."""
        return [hash_of(list(self.hashes.values()))] if self.hashes else []

    @property
    def handed_shapes(self) -> Shapes:
        """Dtypes and shapes of `handed`."""
        return _HASH if self.at.frozen else ()

    def taken(self, arrays: Sequence[PyTree]) -> Sequence[PyTree]:
        """What was handed over, without the hash of its base.

        Raises:
            OtherBase: if that is another.
        """
        own = self.handed
        for mine, came in zip(own, arrays, strict=False):
            if not np.array_equal(np.asarray(mine), np.asarray(came)):
                raise OtherBase("was trained on other frozen parameters")
        return arrays[len(own) :]

    def _each(
        self, state: PartyState, fn: Callable[[Name, Frozen, PyTree], PyTree]
    ) -> PartyState:
        return replaced(self.at, state, fn) if self.at.frozen else state


def _part(name: Name) -> str:
    return "params" if name.kind == "params" else "state"


def _held(state: PartyState, name: Name) -> PyTree:
    return getattr(state, _part(name))[name.what]
