"""Checkpoints of a loop: the last state, the best one, and the history, changed all at once.

Each state is a folder of `jsplit.save`. Which of them are the last and the best says one small
file, replaced in one go: whoever kills the process finds the old training or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from jsplit.core.base import TrainState
from jsplit.core.checkpoint import restore, save
from jsplit.core.files import plain_file, private_folder, write_whole
from jsplit.core.locks import lock
from jsplit.fitting.history import History, Running
from jsplit.fitting.records import Fitted, State

_log = logging.getLogger("jsplit")

_FORMAT = "jsplit fit 1"
_FILE = "fit.json"
_HELD = "in_use"  # locked for as long as a training goes on
_STATES = "state-"  # then the number of steps
_LINKS = ("last", "best")  # for people: links to the folders of these states


class _Commit(TypedDict):
    """What the small file says."""

    format: str
    last: str
    best: str
    settings: dict[str, object]
    history: dict[str, object]


class Checkpoints:
    """The folder of one training.

    Args:
        folder: is made if it is not there.
        settings: of the training, by argument; they must be the same when it goes on.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, object]):
        self.folder = Path(folder)
        # As JSON gives them back: tuples are lists.
        self.settings: dict[str, object] = json.loads(json.dumps(dict(settings)))
        self._best: tuple[int | None, str] = (None, "")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for one training: another would delete what this one keeps.

        Raises:
            ValueError: if another holds it.
            OSError: if nothing can be written there.
        """
        private_folder(self.folder)
        with plain_file(self.folder / _HELD) as file:
            lock(file, f"`folder` {self.folder}", "another training", _log)
            yield

    def forget(self) -> None:
        """Let what is there be no training that could go on."""
        with suppress(FileNotFoundError):
            (self.folder / _FILE).unlink()

    def write(self, fitted: Fitted) -> None:
        """Keep a training as it is now.

        Args:
            fitted: last and best state, and history.

        Raises:
            OSError: if it cannot be written; what was kept before then still is.
        """
        private_folder(self.folder)
        history = fitted.history
        last = f"{_STATES}{history.steps}"
        save(self.folder / last, fitted.state)
        number, best = self._best
        if history.best is None:
            best = last
        elif history.best != number:
            # At the end of an epoch the best is either this one, or saved already; but
            # where a training goes on from one in hand.
            is_last = history.best == len(history) - 1 and not history.running.steps
            best = last if is_last else f"{last}-best"
            if not is_last:
                save(self.folder / best, fitted.best)
        self._commit(last, best, history)
        self._best = (history.best, best)

    def _commit(self, last: str, best: str, history: History) -> None:
        said = _Commit(
            format=_FORMAT,
            last=last,
            best=best,
            settings=self.settings,
            history=as_json(history),
        )
        write_whole(self.folder / _FILE, json.dumps(said))
        self._tidy({"last": last, "best": best})

    def _tidy(self, kept: Mapping[str, str]) -> None:
        """Make the links for people, and delete the states that nothing names any more."""
        for name in _LINKS:
            # Not every file system has links, and nothing here reads them.
            with suppress(OSError):
                link = self.folder / f"{name}.tmp"
                link.unlink(missing_ok=True)
                link.symlink_to(kept[name], target_is_directory=True)
                os.replace(link, self.folder / name)
        for old in self.folder.glob(f"{_STATES}*"):
            if old.name not in kept.values():
                shutil.rmtree(old, ignore_errors=True)

    def read(self, like: State) -> Fitted | None:
        """The training that is kept; `None` where there is none.

        Args:
            like: a state of the same shapes and dtypes.

        Raises:
            ValueError: naming the argument, if it is a training with others, or what
                does not fit the state.
        """
        file = self.folder / _FILE
        if not file.is_file():
            return None
        said = _said(file)
        try:
            history = from_json(said["history"])
            folders = self.folder / said["last"], self.folder / said["best"]
            settings = {**said["settings"]}
        except (KeyError, TypeError, AttributeError):
            raise _not_ours(file) from None
        self._check(settings)
        last = _restored(folders[0], like)
        # One state in memory where the last is the best.
        best = last
        if said["best"] != said["last"]:
            best = _restored(folders[1], like)
        self._best = (history.best, said["best"])
        # Whoever was killed after the small file was written has not come to the links.
        self._tidy({"last": said["last"], "best": said["best"]})
        return Fitted(last, best, history)

    def _check(self, found: Mapping[str, object]) -> None:
        # The data last: what a first step reads differs with what else differs, too.
        for name in sorted({*found} | {*self.settings}, key=_data_last):
            old, new = found.get(name), self.settings.get(name)
            if old != new:
                raise ValueError(
                    f"{self.folder} has a training with another `{name}`: {old}, and now "
                    f"it is {new}. Give another folder, or `resume=False` to start anew "
                    "in this one."
                )


def _data_last(name: str) -> tuple[bool, str]:
    return name in ("data", "validation"), name


def _said(file: Path) -> _Commit:
    try:
        said: _Commit = json.loads(file.read_bytes())
        if said.get("format") == _FORMAT:
            return said
    # What is no JSON, or no dictionary.
    except (ValueError, AttributeError):
        pass
    raise _not_ours(file)


def _not_ours(file: Path) -> ValueError:
    return ValueError(f"{file} is not what `jsplit.fit` has written.")


def _restored(folder: Path, like: State) -> State:
    # Each by itself: the checker must see that a state gives one of its kind.
    if isinstance(like, TrainState):
        return restore(folder, like)
    return restore(folder, like)


def as_json(history: History) -> dict[str, object]:
    """A history as JSON has it; `from_json` is the inverse."""
    # Python writes a float so that the same bits are read again, NaN too.
    return {
        **vars(history),
        "rows": [dict(row) for row in history.rows],
        "running": history.running._asdict(),
    }


def from_json(said: dict) -> History:
    """The history that JSON holds."""
    rows = tuple(said.pop("rows"))
    seconds, running = tuple(said.pop("seconds")), Running(**said.pop("running"))
    return History(rows=rows, seconds=seconds, running=running, **said)
