"""A party's checkpoints: which are kept, which are deleted, and what is gone back to.

Kept are the newest that all parties have, the one before it, and what the party has saved
since; a crash, a full disk or a damaged file costs the newest one at most. How they lie
on disk is in `folder`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from jsplit.core.base import PartyState, TrainState
from jsplit.core.checkpoint import save
from jsplit.core.files import plain_file, private_folder, to_disk, write_whole
from jsplit.party.base import Base
from jsplit.party.finite_states import FiniteStates
from jsplit.party.folder import (
    at,
    check_owner,
    lock,
    number_process,
    owner_of,
    read_json,
    steps_in,
    steps_of,
    warn_of_writers,
)
from jsplit.party.in_memory import InMemory, oldest_kept
from jsplit.party.saved_on_base import saved_on_base
from jsplit.party.scarce_files import with_files
from jsplit.training.base_hash import OtherBase
from jsplit.wire.open_files import lacks_files
from jsplit.wire.rota import Away
from jsplit.wire.said import printable

_log = logging.getLogger("jsplit.party")


class CheckpointStore:
    """Checkpoints in a folder. One process at a time has it; `close` lets go of it.

    Args:
        folder: of this party alone.
        party: whose checkpoints they are.
        schema: hash of what a checkpoint depends on.
        like: a state of the party, for shapes and dtypes.
        wait: seconds that it waits where no more files can be open.
        base: what no step changes of its state; it is written once.

    Attributes:
        steps: of the checkpoints that are intact, in order.
        sound: which states may be kept.
        why: what was wrong with the last checkpoint that is not intact.
        instance: the number of this process, larger than that of all before it,
            whatever the clock says.

    Raises:
        ValueError: if the folder holds checkpoints of another agreement or party, or
            none that is intact, or of another base, or another process has it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        party: str,
        schema: str,
        like: PartyState,
        wait: float = 30.0,
        base: Base | None = None,
    ):
        self.folder, self.party, self.like = Path(folder), party, like
        self.wait, self.why, self.base = wait, "", base
        self.sound = FiniteStates(like, moving=base and base.moving)
        private_folder(self.folder)
        warn_of_writers(self.folder)
        # Open for as long as this process has the folder, hence no `with`.
        self.lock = plain_file(self.folder / "process")
        try:
            lock(self.lock, self.folder)
            self.instance = number_process(self.lock)
            self.steps = self.scan(schema)
        except BaseException:
            self.close()
            raise

    def scan(self, schema: str) -> tuple[int, ...]:
        """Look at whose checkpoints there are, and which of them are intact.

        Args:
            schema: that they must be of.

        Returns:
            Their steps, in order.

        Raises:
            ValueError: if they are somebody else's, or none is intact.
        """
        there = steps_of(self.folder, self.party)
        if there or owner_of(self.folder) is not None:
            check_owner(self.folder, self.party, schema)
        else:
            # Nothing was ever saved here. A damaged about.json is written anew as well:
            # it is what a crash in the very first save leaves.
            about = {"party": self.party, "schema": schema}
            write_whole(self.folder / "about.json", json.dumps(about))
        steps = tuple(step for step in there if self.is_intact(step))
        # To begin anew instead would throw a whole run away without a word.
        if there and not steps:
            raise ValueError(
                f"`checkpoint` {self.folder} holds none that is whole, "
                f"of the steps {there}: {self.why}"
            )
        return steps

    def close(self) -> None:
        """Let go of the folder."""
        self.lock.close()

    def is_intact(self, step: int) -> bool:
        """Whether the checkpoint of a step can be read, is of that step, and is finite."""
        try:
            own = self.restore(step)
            # Of a version that did not look, or spoilt by hand: all would go on from
            # it, and end at the next step, for ever.
            self.sound.check(own)
        except OtherBase:
            # It is whole; to go on from an older one would not make it right.
            raise
        except ValueError as error:
            # That nothing can be opened says nothing of what is there.
            if lacks_files(error):
                raise
            # Names in the archive may be in it, which need not be this party's own.
            self.why = printable(str(error))
            _log.warning("checkpoint of step %d is left aside: %s", step, self.why)
            return False
        return int(own.step) == step

    def restore(self, step: int) -> PartyState:
        """The state of a step, as it was saved.

        Raises:
            ValueError: if the checkpoint is damaged, or of another model or base.
        """
        # Else a checkpoint would be left aside that is whole.
        return with_files(
            lambda: saved_on_base(self.folder, step, self.party, self.like, self.base),
            f"reading the checkpoint of step {step}",
            self.wait,
        )

    def save(self, state: PartyState) -> None:
        """Save durably. What was there before stays, whatever happens.

        Raises:
            OSError: if it cannot be written, as when the disk is full.
            NotFinite: if it is not finite; nothing is written then.
        """
        self.sound.check(state)
        step = int(state.step)

        def write() -> None:
            slim = state
            if self.base is not None:
                # Before the first that is of use only with it.
                self.base.save(self.folder)
                slim = self.base.slim(state)
            save(at(self.folder, step), TrainState({self.party: slim}))
            # The file is on disk, and so must be the name of the folder that it is in.
            to_disk(self.folder)

        try:
            with_files(write, f"saving step {step}", self.wait)
        except OSError as error:
            # A full disk names no file, and a machine has several disks.
            if error.filename is None and error.errno is not None:
                error.filename = str(self.folder)
            raise
        self.steps = tuple(sorted({*self.steps, step}))

    def prune_before(self, committed: int) -> None:
        """Delete what is older than the step that all have, and than the one before it.

        Args:
            committed: the newest step that all parties have on disk.
        """
        first = oldest_kept(self.steps, committed)
        try:
            there = steps_in(self.folder)
        except OSError as error:
            # A folder is a file to look into. After the next save is soon enough.
            if lacks_files(error):
                return
            raise
        for step in there:
            if step < first:
                # A leftover costs space and nothing else: no run should end for it.
                shutil.rmtree(at(self.folder, step), ignore_errors=True)
        self.steps = tuple(s for s in self.steps if s >= first)

    def discard_after(self, step: int) -> None:
        """Delete what is newer than a step from which others went on differently.

        Args:
            step: the last that is kept.

        Raises:
            OSError: if it cannot be deleted. It must not be found again: all would go
                on from a state that only this party has seen.
        """

        def delete() -> None:
            for newer in steps_in(self.folder):
                if newer > step:
                    shutil.rmtree(at(self.folder, newer))

        with_files(delete, f"deleting what is newer than step {step}", self.wait)
        self.steps = tuple(s for s in self.steps if s <= step)

    def remember(self, away: Away) -> None:
        """At the lead: note which clients are passed over, and since when."""
        self._note("away.json", away)

    def away(self) -> Away:
        """At the lead: which clients were passed over when this process began."""
        # This process or one before it has written the file, in `remember`.
        found = cast(
            "list[tuple[int, list[int]]]", read_json(self.folder / "away.json")
        )
        # JSON has no tuples, and what is compared with them must be equal.
        return tuple((step, tuple(clients)) for step, clients in found or [])

    def finish(self, steps: int, awaited: Iterable[str] = ()) -> None:
        """Note that all have all steps on disk, so that none goes back any more.

        Args:
            steps: of the run.
            awaited: who must still learn it, or show that it has.
        """
        self._note("done.json", {"steps": steps, "awaited": sorted(awaited)})

    def _note(self, name: str, what: object) -> None:
        text, file = json.dumps(what), self.folder / name
        with_files(lambda: write_whole(file, text), f"writing {name}", self.wait)

    def done(self, steps: int) -> list[str] | None:
        """Whom this party waits for after a run that is over; `None` if it is not.

        Args:
            steps: of the run; one that was continued for more steps is not over.

        Raises:
            ValueError: if the note is damaged.
        """
        found = read_json(self.folder / "done.json")
        if not isinstance(found, dict) or found.get("steps") != steps:
            return None
        # The note alone is not enough: there must be a last state to give.
        return cast("list[str]", found["awaited"]) if steps in self.steps else None


Checkpoints = CheckpointStore | InMemory
"""What a party saves its state to: a folder, or its own memory if it was given none."""
