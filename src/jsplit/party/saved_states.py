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
from jsplit.party.base import Base
from jsplit.party.finite_states import FiniteStates
from jsplit.party.folder import at, check_owner, steps_of
from jsplit.party.scarce_files import with_files
from jsplit.wire.errors import NotYet
from jsplit.wire.open_files import lacks_files
from jsplit.wire.said import printable

_WAIT = 30.0
"""Seconds that a checkpoint is waited for, where no more files can be open."""
_log = logging.getLogger("jsplit.party")


class SavedStates:
    """The intact checkpoints in a folder of one party.

    Args:
        folder: where they are.
        party: whose they are.
        schema: hash of what a checkpoint depends on.
        like: a state of the party. What only training needs, the optimizer's state and
            the memory of links, is taken from here and not from a checkpoint.
        base: what no step changes of it; the folder may have another, which counts.

    Attributes:
        steps: of the checkpoints that were intact, in order.
        why: what was wrong with the last that was not.

    Raises:
        ValueError: if there is none, or they are of another agreement.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        party: str,
        schema: str,
        like: PartyState,
        base: Base | None = None,
    ):
        self.folder, self.party, self.like = Path(folder), party, like
        moving = base and base.moving
        self.sound, self.why = FiniteStates(_bare(like), moving=moving), ""
        there = steps_of(self.folder, party) if self.folder.is_dir() else []
        if not there:
            raise ValueError(
                f"`checkpoint` {folder} holds none of the party `{party}`."
            )
        check_owner(self.folder, party, schema)
        # What was trained is of use on its own base alone, whatever weights the segments
        # begin with here.
        self.base = base and base.saved(self.folder)
        # All are looked at before one is agreed on: what is damaged here must be no
        # step that all go by.
        self.steps = tuple(step for step in there if self._is_intact(step))
        if not self.steps:
            raise ValueError(
                f"`checkpoint` {folder} holds none that is whole, of the steps {there}: "
                f"{self.why}"
            )

    def _is_intact(self, step: int) -> bool:
        try:
            found = self._read(step)
            self.sound.check(found)
        except (OSError, ValueError, KeyError) as error:
            # That nothing can be opened says nothing of what is there.
            if lacks_files(error):
                raise
            # Names in the archive may be in it, which need not be this party's own.
            self.why = printable(str(error))
            _log.warning("checkpoint of step %d is left aside: %s", step, self.why)
            return False
        return int(found.step) == step

    def restore(self, step: int) -> PartyState:
        """The state of a step.

        Raises:
            NotYet: if it is there no more, as when training has gone on meanwhile.
        """
        try:
            found = self._read(step)
        except (OSError, ValueError, KeyError) as error:
            raise NotYet(
                f"`checkpoint` {self.folder} of `{self.party}` has the step {step} no "
                f"more, with which all were to begin; it has "
                f"{steps_of(self.folder, self.party)}: start again at all parties."
            ) from error
        return found._replace(optimizer=self.like.optimizer, links=self.like.links)

    def _read(self, step: int) -> PartyState:
        """The leaves of a state without what only training needs."""
        bare = _bare(self.like)
        bare = self.base.slim(bare) if self.base else bare
        file = file_of(at(self.folder, step), self.party)
        about, arrays = with_files(
            lambda: read(file), f"reading the checkpoint of step {step}", _WAIT
        )
        leaves = []
        for path, x in arrays_by_path(bare).items():
            if path == "secret" and path not in arrays:
                raise ValueError(
                    f"{file} has no secret key, and a link that `{self.party}` sends "
                    "through draws from one (`secret=True`)."
                )
            leaves.append(array_of(file, path, arrays[path], about["dtypes"][path], x))
        found = jax.tree.unflatten(jax.tree.structure(bare), leaves)
        return self.base.on(found, str(file)) if self.base else found


def _bare(state: PartyState) -> PartyState:
    """A state without what whoever evaluates need not have."""
    return state._replace(optimizer=(), links={})
