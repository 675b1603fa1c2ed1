"""What a party keeps of epochs beside its checkpoints: the history, and the best state.

The record of a checkpoint lies in its folder, `<folder>/<step>/epochs.json`, so the two come and
go together. `<folder>/best` is a folder of checkpoints of its own: of the best epoch alone, once
a run is over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState, TrainState
from jsplit.core.checkpoint import save
from jsplit.core.files import private_folder, to_disk, write_whole
from jsplit.fitting.history import History
from jsplit.fitting.saved import as_json, from_json
from jsplit.party.durable import Checkpoints, CheckpointStore
from jsplit.party.folder import at, read_json, steps_in
from jsplit.party.saved_on_base import saved_on_base

_FORMAT = "jsplit epochs 1"
_FILE = "epochs.json"


class Kept(NamedTuple):
    """What is known of epochs at a step.

    Attributes:
        history: of this party.
        best: the step after the best epoch; `None` before the first.
    """

    history: History
    best: int | None = None


def copied(state: PartyState) -> PartyState:
    """A state that stays valid whatever the next step does."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


class KeptEpochs:
    """The records and the best states of a party.

    Args:
        store: its checkpoints.
        schema: hash of what these depend on.
        settings: of the training, by argument; they must be the same when it goes on.
    """

    def __init__(
        self, store: Checkpoints, schema: str, settings: Mapping[str, object]
    ) -> None:
        self.store, self.schema = store, schema
        self.settings: dict[str, object] = json.loads(json.dumps(dict(settings)))
        self.disk = store if isinstance(store, CheckpointStore) else None
        # Without a folder, what it would hold.
        self._records: dict[int, dict] = {}
        self._best: dict[int, PartyState] = {}

    @property
    def folder(self) -> Path:
        """Of the best state."""
        assert self.disk is not None
        return self.disk.folder / "best"

    def write(self, step: int, kept: Kept, best: PartyState | None) -> None:
        """Keep a record, before the checkpoint of its step is there.

        Args:
            step: of the checkpoint.
            kept: what is known of epochs.
            best: the best state, if this process has it.

        Raises:
            OSError: if it cannot be written.
        """
        if kept.best is not None and best is not None:
            self._keep_best(kept.best, best)
        record = {
            "format": _FORMAT,
            "settings": self.settings,
            "best": kept.best,
            "history": as_json(kept.history),
        }
        if self.disk is None:
            self._records[step] = record
            return
        folder = at(self.disk.folder, step)
        private_folder(folder)
        write_whole(folder / _FILE, json.dumps(record))

    def _keep_best(self, step: int, state: PartyState) -> None:
        disk = self.disk
        if disk is None:
            self._best.setdefault(step, state)
            return
        if step in self._best_steps():
            return
        private_folder(self.folder)
        about = {"party": disk.party, "schema": self.schema}
        write_whole(self.folder / "about.json", json.dumps(about))
        slim = state
        if disk.base is not None:
            disk.base.save(self.folder)
            slim = disk.base.slim(state)
        save(at(self.folder, step), TrainState({disk.party: slim}))
        to_disk(self.folder)

    def _best_steps(self) -> list[int]:
        if self.disk is None:
            return [*self._best]
        there = steps_in(self.folder) if self.folder.is_dir() else []
        file = f"{self.disk.party}.npz"
        return [s for s in there if (at(self.folder, s) / file).is_file()]

    def read(self, step: int, wanted: History) -> Kept:
        """What was known of epochs at a step.

        Args:
            step: of a checkpoint.
            wanted: the history of a training that begins.

        Raises:
            ValueError: if the folder holds a training without epochs, or one of other
                arguments, naming the one that differs.
        """
        if self.disk is None:
            found = self._records.get(step)
        else:
            found = read_json(at(self.disk.folder, step) / _FILE)
        if found is None and step == 0:
            return Kept(wanted)
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError(
                f"the checkpoint of step {step} is none of `jsplit.party.fit`: it has no "
                f"record of epochs. Give another `folder`."
            )
        # What is read is changed; in memory it is the record itself.
        said = json.loads(json.dumps(found))
        self._check(said["settings"])
        return Kept(from_json(said["history"]), said["best"])

    def _check(self, found: Mapping[str, object]) -> None:
        # The data last: what a first step reads differs with what else differs, too.
        data = ("data", "validation")
        names = sorted({*found} | {*self.settings}, key=lambda n: (n in data, n))
        for name in names:
            old, new = found.get(name), self.settings.get(name)
            if old != new:
                raise ValueError(
                    f"`folder` has a training with another `{name}`: {old}, and now it "
                    f"is {new}. Give another folder, or what it was begun with."
                )

    def restore_best(self, step: int) -> PartyState:
        """The best state, of its step."""
        if self.disk is None:
            return self._best[step]
        disk = self.disk
        return saved_on_base(self.folder, step, disk.party, disk.like, disk.base)

    def tidy(self, kept: Kept) -> None:
        """Delete the states that are the best no more.

        Args:
            kept: what is known at a step from which nobody goes back.
        """
        for step in self._best_steps():
            if step == kept.best:
                continue
            self._best.pop(step, None)
            if self.disk is not None:
                shutil.rmtree(at(self.folder, step), ignore_errors=True)
