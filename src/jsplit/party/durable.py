"""A party's checkpoints: the newest that all have, and what it has saved since. Nothing else is ever deleted.

Each is a folder of its own, written by `jsplit.save`; a crash, a full disk or a damaged file costs the newest one at most.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp

from jsplit.base import PartyState, TrainState
from jsplit.checkpoint import array_of, by_path, file_of, read, restore, save
from jsplit.wire.session import Away

log = logging.getLogger("jsplit.party")


class Disk:
    """Checkpoints in a folder: `<folder>/<step>/<party>.npz`.

    Args:
        folder: of this party alone.
        party: whose they are.
        schema: hash of what a checkpoint depends on.
        like: a state of the party, for shapes and dtypes.

    Raises:
        ValueError: if the folder holds checkpoints of another agreement or party.
    """

    def __init__(self, folder: str | os.PathLike, party: str, schema: str, like: PartyState):
        self.folder, self.party, self.like = Path(folder), party, like
        self.folder.mkdir(parents=True, exist_ok=True)
        about, file = {"party": party, "schema": schema}, self.folder / "about.json"
        if file.exists():
            found = json.loads(file.read_text())
            if found != about:
                raise ValueError(
                    f"`checkpoint` {folder} is of the party `{found.get('party')}` and another agreement; "
                    "give another folder, or the agreement it was begun with."
                )
        else:
            write_whole(file, json.dumps(about))
        self.steps = tuple(step for step in self.found() if self.whole(step))

    def found(self) -> list[int]:
        return sorted(int(f.name) for f in self.folder.iterdir() if re.fullmatch(r"\d{12}", f.name))

    def at(self, step: int) -> Path:
        return self.folder / f"{step:012}"

    def whole(self, step: int) -> bool:
        try:
            own = self.restore(step)
        except ValueError as error:
            log.warning("checkpoint of step %d is left aside: %s", step, error)
            return False
        return int(own.step) == step

    def restore(self, step: int) -> PartyState:
        return restore(self.at(step), TrainState({self.party: self.like})).parties[self.party]

    def save(self, state: PartyState) -> None:
        """Save durably. What was there before stays, whatever happens.

        Raises:
            OSError: if it cannot be written, as when the disk is full.
        """
        step = int(state.step)
        save(self.at(step), TrainState({self.party: state}))
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self.steps = tuple(sorted({*self.steps, step}))

    def keep_from(self, committed: int) -> None:
        """Delete what is older than the step that all have."""
        for step in [s for s in self.found() if s < committed]:
            shutil.rmtree(self.at(step), ignore_errors=True)
        self.steps = tuple(s for s in self.steps if s >= committed)

    def forget(self, after: int) -> None:
        """Delete what is newer than a step from which others went on differently."""
        for step in [s for s in self.found() if s > after]:
            shutil.rmtree(self.at(step))
        self.steps = tuple(s for s in self.steps if s <= after)

    def remember(self, away: Away) -> None:
        """At the lead: which clients are passed over."""
        write_whole(self.folder / "away.json", json.dumps(away))

    def away(self) -> Away:
        file = self.folder / "away.json"
        found = json.loads(file.read_text()) if file.is_file() else []
        return tuple((step, tuple(clients)) for step, clients in found)

    def finish(self, steps: int) -> None:
        """All have done all steps; this party need not meet the others again."""
        write_whole(self.folder / "done.json", json.dumps(steps))

    def done(self) -> int | None:
        """How many steps the run had that is over, if one is."""
        file = self.folder / "done.json"
        found = json.loads(file.read_text()) if file.is_file() else None
        return found if found in self.steps else None


def newest(folder: str | os.PathLike, party: str, schema: str, like: PartyState) -> PartyState:
    """A party as its newest whole checkpoint has it, but for what only training needs, which stays as in `like`.

    Raises:
        ValueError: if there is none, or it is of another agreement.
    """
    folder = Path(folder)
    if not (folder / "about.json").is_file():
        raise ValueError(f"`checkpoint` {folder} holds none.")
    if json.loads((folder / "about.json").read_text()) != {"party": party, "schema": schema}:
        raise ValueError(f"`checkpoint` {folder} is of another party or agreement.")
    for step in sorted((int(f.name) for f in folder.iterdir() if re.fullmatch(r"\d{12}", f.name)), reverse=True):
        file = file_of(folder / f"{step:012}", party)
        try:
            about, arrays = read(file)
            wanted = by_path(like._replace(optimizer=(), links={}))
            leaves = [array_of(file, path, arrays[path], about["dtypes"][path], x) for path, x in wanted.items()]
        except (ValueError, KeyError) as error:
            log.warning("checkpoint of step %d is left aside: %s", step, error)
            continue
        found = jax.tree.unflatten(jax.tree.structure(like._replace(optimizer=(), links={})), leaves)
        return found._replace(optimizer=like.optimizer, links=like.links)
    raise ValueError(f"`checkpoint` {folder} holds no whole one.")


class InMemory:
    """Checkpoints that die with the process: another party's fault is made good, this party's own is not."""

    def __init__(self):
        self.kept: dict[int, PartyState] = {}

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted(self.kept))

    def restore(self, step: int) -> PartyState:
        return jax.tree.map(lambda x: jnp.array(x, copy=True), self.kept[step])

    def save(self, state: PartyState) -> None:
        self.kept[int(state.step)] = jax.tree.map(lambda x: jnp.array(x, copy=True), state)

    def keep_from(self, committed: int) -> None:
        self.kept = {s: x for s, x in self.kept.items() if s >= committed}

    def forget(self, after: int) -> None:
        self.kept = {s: x for s, x in self.kept.items() if s <= after}

    def remember(self, away: Away) -> None:
        pass

    def away(self) -> Away:
        return ()

    def finish(self, steps: int) -> None:
        pass

    def done(self) -> int | None:
        return None


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a crash leaves all of it or nothing."""
    temporary = file.with_suffix(".tmp")
    with open(temporary, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, file)
