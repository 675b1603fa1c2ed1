"""The folder of one party's checkpoints: whose it is, what is in it, and who uses it.

`durable` decides what is kept; here is how that lies on disk, so that a crash at any
moment leaves something to go on from:

    <folder>/process                 locked by the process that uses the folder
    <folder>/about.json              whose checkpoints these are
    <folder>/<step>/<party>.npz      a checkpoint, `jsplit.save_trained`
    <folder>/base/<party>.npz        what it has a hash of: what no step changes
    <folder>/away.json               at the lead: who was passed over
    <folder>/done.json               that the run is over, and who must still learn it
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from pathlib import Path
from typing import IO

from jsplit.core import locks
from jsplit.core.files import file_of
from jsplit.wire.json_types import Json
from jsplit.wire.said import named

_log = logging.getLogger("jsplit.party")


def lock(file: IO[bytes], folder: Path) -> None:
    """Hold a folder for this process alone, where the system can do that.

    Args:
        file: in it, open; the system lets go of it when it is closed, or the process
            dies.
        folder: that it stands for.

    Raises:
        ValueError: if another process holds it.
    """
    locks.lock(file, f"`checkpoint` {folder}", "another process of this party", _log)


def number_process(file: IO[bytes]) -> int:
    """Number this process, by a larger number than any before it had.

    Args:
        file: which keeps the numbers of the processes before, 20 bytes each.

    Returns:
        The time in nanoseconds, or one more than the number before if the clock was set
        back. Others take the process with the larger number for the one that counts.
    """
    file.seek(0)
    before = [int(word) for word in file.read().split() if word.isdigit()]
    instance = max([time.time_ns(), *(number + 1 for number in before)])
    # Added to those before, which stay: on a full disk nothing is written, and a number
    # that was lost would leave only the clock.
    file.write(b"\n%d" % instance)
    # Before anybody is told the number: after a crash it must not be given again.
    file.flush()
    os.fsync(file.fileno())
    return instance


def at(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"{step:012}"


def steps_in(folder: Path) -> list[int]:
    """The steps of which there is a folder, whatever is in it."""
    names = [entry.name for entry in folder.iterdir()]
    return sorted(int(name) for name in names if re.fullmatch(r"\d{12}", name))


def steps_of(folder: Path, party: str) -> list[int]:
    """The steps of which there is a checkpoint of a party, whole or not."""
    # A process that was killed in a first save leaves a folder without a file.
    return [s for s in steps_in(folder) if file_of(at(folder, s), party).is_file()]


def read_json(file: Path) -> Json:
    """What a file of JSON says, `None` if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return json.loads(file.read_text()) if file.is_file() else None
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def warn_of_writers(folder: Path) -> None:
    """Say of a folder that was there before when others can put files into it."""
    # Only of that: what this party writes into it nobody else can read, and whose folder it is
    # its owner knows. But a checkpoint that others have put there would be gone on from.
    if os.name == "posix" and folder.stat().st_mode & 0o022:
        _log.warning(
            "`checkpoint` %s can be written by others, who could put checkpoints of theirs "
            "into it: chmod go-w %s",
            folder,
            folder,
        )


def owner_of(folder: Path) -> dict[str, Json] | None:
    """Whose checkpoints a folder says that it holds, `None` if it does not."""
    try:
        found = read_json(folder / "about.json")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def check_owner(folder: Path, party: str, schema: str) -> None:
    """Refuse the checkpoints of another party or agreement.

    Args:
        folder: where they are.
        party: whose they should be.
        schema: of the agreement that they should be of.

    Raises:
        ValueError: saying whose they are.
    """
    about = owner_of(folder)
    if about is None:
        raise ValueError(
            f"`checkpoint` {folder} does not say whose it is: "
            "about.json is missing or damaged."
        )
    if about.get("party") != party:
        raise ValueError(
            f"`checkpoint` {folder} is of the party {named(about.get('party'))}; "
            f"give `{party}` a folder of its own."
        )
    if about.get("schema") != schema:
        raise ValueError(
            f"`checkpoint` {folder} is of another agreement; give another folder, "
            "or the agreement it was begun with."
        )
