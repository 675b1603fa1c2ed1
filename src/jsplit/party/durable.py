"""A party's checkpoints: the newest that all have, the one before it, and what it has saved since. Nothing else is deleted.

Each is a folder of its own, written by `jsplit.save`; a crash, a full disk or a damaged file costs the newest one at most.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState, TrainState
from jsplit.core.checkpoint import (
    array_of,
    arrays_by_path,
    file_of,
    read,
    restore,
    save,
    to_disk,
)
from jsplit.wire.rota import Away

_log = logging.getLogger("jsplit.party")


class Disk:
    """Checkpoints in a folder: `<folder>/<step>/<party>.npz`. One process at a time has it; `close` lets go of it.

    Args:
        folder: of this party alone.
        party: whose they are.
        schema: hash of what a checkpoint depends on.
        like: a state of the party, for shapes and dtypes.

    Attributes:
        steps: of the checkpoints that are whole.
        instance: the number of this process, larger than that of all before it, whatever the clock says.

    Raises:
        ValueError: if the folder holds checkpoints of another agreement or party, or none that is whole, or another process
            has it.
    """

    def __init__(
        self, folder: str | os.PathLike, party: str, schema: str, like: PartyState
    ):
        self.folder, self.party, self.like = Path(folder), party, like
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.folder / "process", "a+b")  # noqa: SIM115 - it is open for as long as the process has the folder
        try:
            _locked(self.lock, self.folder)
            self.instance = _numbered(self.lock)
            self.steps = self.gone_over(schema)
        except BaseException:
            self.close()
            raise

    def gone_over(self, schema: str) -> tuple[int, ...]:
        """The steps of the checkpoints that are whole, after a look at whose they are."""
        there = self.found()
        if there or _about_of(self.folder) is not None:
            _check_whose(self.folder, self.party, schema)
        else:  # nothing was ever saved here
            write_whole(
                self.folder / "about.json",
                json.dumps({"party": self.party, "schema": schema}),
            )
        steps = tuple(step for step in there if self.whole(step))
        if there and not steps:
            raise ValueError(
                f"`checkpoint` {self.folder} holds none that is whole, of the steps {there}."
            )
        return steps

    def close(self) -> None:
        self.lock.close()

    def found(self) -> list[int]:
        return _found(self.folder, self.party)

    def at(self, step: int) -> Path:
        return _at(self.folder, step)

    def whole(self, step: int) -> bool:
        try:
            own = self.restore(step)
        except ValueError as error:
            _log.warning("checkpoint of step %d is left aside: %s", step, error)
            return False
        return int(own.step) == step

    def restore(self, step: int) -> PartyState:
        return restore(self.at(step), TrainState({self.party: self.like})).parties[
            self.party
        ]

    def save(self, state: PartyState) -> None:
        """Save durably. What was there before stays, whatever happens.

        Raises:
            OSError: if it cannot be written, as when the disk is full.
        """
        step = int(state.step)
        save(self.at(step), TrainState({self.party: state}))
        to_disk(self.folder)
        self.steps = tuple(sorted({*self.steps, step}))

    def keep_from(self, committed: int) -> None:
        """Delete what is older than the step that all have, and than the one before it, which counts if that is damaged."""
        first = _kept_from(self.steps, committed)
        for step in [s for s in _steps_in(self.folder) if s < first]:
            shutil.rmtree(self.at(step), ignore_errors=True)
        self.steps = tuple(s for s in self.steps if s >= first)

    def forget(self, after: int) -> None:
        """Delete what is newer than a step from which others went on differently."""
        for step in [s for s in _steps_in(self.folder) if s > after]:
            shutil.rmtree(self.at(step))
        self.steps = tuple(s for s in self.steps if s <= after)

    def remember(self, away: Away) -> None:
        """At the lead: which clients are passed over."""
        write_whole(self.folder / "away.json", json.dumps(away))

    def away(self) -> Away:
        return tuple(
            (step, tuple(clients))
            for step, clients in _said(self.folder / "away.json") or []
        )

    def finish(self, steps: int, awaited: Iterable[str] = ()) -> None:
        """All have all steps on disk, so none goes back any more; who must still learn it, or show that it has."""
        write_whole(
            self.folder / "done.json",
            json.dumps({"steps": steps, "awaited": sorted(awaited)}),
        )

    def done(self, steps: int) -> list[str] | None:
        """Whom this party waits for after a run of so many steps that is over, if it is."""
        found = _said(self.folder / "done.json")
        over = (
            isinstance(found, dict)
            and found.get("steps") == steps
            and steps in self.steps
        )
        return found["awaited"] if over else None


def _found(folder: Path, party: str) -> list[int]:
    """The steps of which there is a checkpoint of this party, whole or not."""
    return [
        step
        for step in _steps_in(folder)
        if file_of(_at(folder, step), party).is_file()
    ]


def _steps_in(folder: Path) -> list[int]:
    return sorted(
        int(f.name) for f in folder.iterdir() if re.fullmatch(r"\d{12}", f.name)
    )


def _at(folder: Path, step: int) -> Path:
    return folder / f"{step:012}"


def _said(file: Path) -> Any:
    """What a file of JSON says, `None` if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return json.loads(file.read_text()) if file.is_file() else None
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _about_of(folder: Path) -> dict[str, Any] | None:
    """Whose checkpoints a folder says that it holds, if it does."""
    try:
        found = _said(folder / "about.json")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _check_whose(folder: Path, party: str, schema: str) -> None:
    """Refuse the checkpoints of another party or agreement.

    Raises:
        ValueError: saying whose they are.
    """
    about = _about_of(folder)
    if about is None:
        raise ValueError(
            f"`checkpoint` {folder} does not say whose it is: about.json is missing or damaged."
        )
    if about.get("party") != party:
        raise ValueError(
            f"`checkpoint` {folder} is of the party `{about.get('party')}`; give `{party}` a folder of its own."
        )
    if about.get("schema") != schema:
        raise ValueError(
            f"`checkpoint` {folder} is of another agreement; give another folder, or the agreement it was begun with."
        )


def _kept_from(steps: Iterable[int], committed: int) -> int:
    """The first step that is kept: the newest before the one that all have, or that one if there is none."""
    return max((s for s in steps if s < committed), default=committed)


def newest(
    folder: str | os.PathLike, party: str, schema: str, like: PartyState
) -> PartyState:
    """A party as its newest whole checkpoint has it, but for what only training needs, which stays as in `like`.

    Raises:
        ValueError: if there is none, or it is of another agreement.
    """
    folder = Path(folder)
    if not folder.is_dir() or not (there := _found(folder, party)):
        raise ValueError(f"`checkpoint` {folder} holds none of the party `{party}`.")
    _check_whose(folder, party, schema)
    bare = like._replace(optimizer=(), links={})
    for step in reversed(there):
        file = file_of(_at(folder, step), party)
        try:
            about, arrays = read(file)
            leaves = [
                array_of(file, path, arrays[path], about["dtypes"][path], x)
                for path, x in arrays_by_path(bare).items()
            ]
        except (ValueError, KeyError) as error:
            _log.warning("checkpoint of step %d is left aside: %s", step, error)
            continue
        return jax.tree.unflatten(jax.tree.structure(bare), leaves)._replace(
            optimizer=like.optimizer, links=like.links
        )
    raise ValueError(
        f"`checkpoint` {folder} holds none that is whole, of the steps {there}."
    )


class InMemory:
    """Checkpoints that die with the process: another party's fault is made good, this party's own is not."""

    def __init__(self):
        self.kept: dict[int, PartyState] = {}
        self.instance = time.time_ns()

    def close(self) -> None:
        pass

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted(self.kept))

    def restore(self, step: int) -> PartyState:
        return jax.tree.map(lambda x: jnp.array(x, copy=True), self.kept[step])

    def save(self, state: PartyState) -> None:
        self.kept[int(state.step)] = jax.tree.map(
            lambda x: jnp.array(x, copy=True), state
        )

    def keep_from(self, committed: int) -> None:
        first = _kept_from(self.kept, committed)
        self.kept = {s: x for s, x in self.kept.items() if s >= first}

    def forget(self, after: int) -> None:
        self.kept = {s: x for s, x in self.kept.items() if s <= after}

    def remember(self, away: Away) -> None:
        pass

    def away(self) -> Away:
        return ()

    def finish(self, steps: int, awaited: Iterable[str] = ()) -> None:
        pass

    def done(self, steps: int) -> list[str] | None:
        return None


def _locked(file: Any, folder: Path) -> None:
    """Hold a file for this process alone, where the system can do that.

    Raises:
        ValueError: if another process holds it.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"`checkpoint` {folder} is in use by another process of this party."
        ) from None
    except (ImportError, OSError) as error:
        _log.warning(
            "`checkpoint` %s cannot be locked, see to it that one process uses it: %s",
            folder,
            error,
        )


def _numbered(file: Any) -> int:
    """A number for this process: the time, or one more than the number before, if the clock was set back."""
    file.seek(0)
    before = file.read()
    instance = max(time.time_ns(), int(before) + 1 if before.isdigit() else 0)
    file.truncate(0)
    file.write(b"%d" % instance)
    file.flush()
    os.fsync(file.fileno())
    return instance


def write_whole(file: Path, text: str) -> None:
    """Write a file durably, so that a crash leaves all of it or nothing."""
    temporary = file.with_suffix(".tmp")
    with open(temporary, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, file)
    to_disk(file.parent)
