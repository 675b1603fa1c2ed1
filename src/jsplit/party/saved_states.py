"""The checkpoints in a folder as inference reads them: of one step, and nothing is written.

A process that trains may have the folder, and go on saving and deleting there.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax

from jsplit.core.base import PartyState
from jsplit.core.checkpoint import array_of, arrays_by_path, file_of, read
from jsplit.party.folder import at, check_owner, steps_of
from jsplit.wire.said import printable

_log = logging.getLogger("jsplit.party")


class SavedStates:
    """The intact checkpoints in a folder of one party.

    Args:
        folder: where they are.
        party: whose they are.
        schema: hash of what a checkpoint depends on.
        like: a state of the party. What only training needs, the optimizer's state and
            the memory of links, is taken from here and not from a checkpoint.

    Attributes:
        steps: of the checkpoints that were intact, in order.

    Raises:
        ValueError: if there is none, or they are of another agreement.
    """

    def __init__(
        self, folder: str | os.PathLike, party: str, schema: str, like: PartyState
    ):
        self.folder, self.party, self.like = Path(folder), party, like
        there = steps_of(self.folder, party) if self.folder.is_dir() else []
        if not there:
            raise ValueError(
                f"`checkpoint` {folder} holds none of the party `{party}`."
            )
        check_owner(self.folder, party, schema)
        # All are looked at before one is agreed on: what is damaged here must be no
        # step that all go by.
        self.steps = tuple(step for step in there if self._is_intact(step))
        if not self.steps:
            raise ValueError(
                f"`checkpoint` {folder} holds none that is whole, of the steps {there}."
            )

    def _is_intact(self, step: int) -> bool:
        try:
            found = self._read(step)
        except (OSError, ValueError, KeyError) as error:
            # Names in the archive may be in it, which need not be this party's own.
            why = printable(str(error))
            _log.warning("checkpoint of step %d is left aside: %s", step, why)
            return False
        return int(found.step) == step

    def restore(self, step: int) -> PartyState:
        """The state of a step.

        Raises:
            ValueError: if it is there no more, as when training has gone on meanwhile.
        """
        try:
            found = self._read(step)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"`checkpoint` {self.folder} of `{self.party}` has the step {step} no "
                f"more, with which all were to begin; it has "
                f"{steps_of(self.folder, self.party)}: start again at all parties."
            ) from error
        return found._replace(optimizer=self.like.optimizer, links=self.like.links)

    def _read(self, step: int) -> PartyState:
        """The leaves of a state without what only training needs."""
        # Whoever evaluates need not have the optimizer, nor links with a memory.
        bare = self.like._replace(optimizer=(), links={})
        file = file_of(at(self.folder, step), self.party)
        about, arrays = read(file)
        leaves = []
        for path, x in arrays_by_path(bare).items():
            leaves.append(array_of(file, path, arrays[path], about["dtypes"][path], x))
        return jax.tree.unflatten(jax.tree.structure(bare), leaves)
