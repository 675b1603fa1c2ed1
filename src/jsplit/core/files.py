"""Where a party's file lies in a folder, that it is on disk, and that nobody else can read it.

A name is readable where the party's is, and no two parties share one. Files that hold what a party
has learned, or what records gave, are made for their owner alone (mode 600, folders 700).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

_LONGEST = 200  # characters; file systems take 255 bytes, and a suffix follows


def file_of(folder: str | os.PathLike[str], party: str) -> Path:
    """A file name of its own for every party, readable where the name is."""
    name = quote(party, safe="")
    if len(name) > _LONGEST:
        # A hash, since two long names may begin alike.
        name = f"{name[:_LONGEST]}~{sha256(party.encode()).hexdigest()[:16]}"
    return Path(folder) / f"{name}.npz"


def to_disk(folder: Path) -> None:
    """Write the names in a folder to disk, as `fsync` of a file does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_file(
    file: str | os.PathLike[str], mode: Literal["wb", "ab"] = "wb"
) -> BinaryIO:
    """Open a file of bytes that its owner alone can read, whatever the umask is.

    Args:
        file: is made if it is not there.
        mode: of `open`.

    Returns:
        The open file.

    Raises:
        OSError: if it cannot be written.
    """
    # The mode is given when the file is made: a `chmod` afterwards would leave a moment in which
    # everybody on the machine can open it.
    return open(file, mode, opener=_for_its_owner)


def plain_file(file: Path) -> BinaryIO:
    """Open a file of bytes to read and to add to, which is one of its own.

    Args:
        file: is made for its owner alone if it is not there.

    Returns:
        The open file.

    Raises:
        ValueError: if there is something else of this name: a link, a pipe, a folder.
        OSError: if it cannot be opened.
    """

    # As for `temporary_file`: it could be a link of others, and what that leads to would
    # be added to. A pipe would be waited at until somebody opens its other end.
    def opener(name: str, flags: int) -> int:
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return _for_its_owner(name, flags)

    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise ValueError(
            f"{file} must be a plain file of jsplit's own, or not be there."
        )
    return open(file, "a+b", opener=opener)


def temporary_file(file: Path) -> BinaryIO:
    """Open a new file of bytes, that its owner alone can read and no other name leads to.

    Args:
        file: what has this name, as one that a crash has left, is deleted.

    Returns:
        The open file.

    Raises:
        OSError: if it cannot be written, or another makes one of this name meanwhile.
    """
    # Where others may write into the folder, the name could be a link of theirs, and what it
    # leads to would be written over.
    file.unlink(missing_ok=True)
    return open(file, "xb", opener=_for_its_owner)


@contextmanager
def whole_file(file: Path) -> Generator[BinaryIO, None, None]:
    """Write a file durably, for its owner alone: a crash or an error leaves the old one.

    Args:
        file: is replaced at the end of the block.

    Yields:
        The new file, open to be written.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        with temporary_file(temporary) as f:
            yield f
            f.flush()
            # The content before the name: else a crash of the machine could leave the new
            # name on a file that is not whole.
            os.fsync(f.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    to_disk(file.parent)


def write_whole(file: Path, text: str) -> None:
    """Write a text as `whole_file` does.

    Args:
        file: what was there is replaced.
        text: what it says then.
    """
    with whole_file(file) as f:
        f.write(text.encode())


def _for_its_owner(file: str, flags: int) -> int:
    handle = os.open(file, flags, 0o600)
    # One that is there has the mode that it has, as what an older version left. Not a device, as
    # /dev/null, which is everybody's; and not on Windows, which has no such modes.
    if hasattr(os, "fchmod") and stat.S_ISREG(os.fstat(handle).st_mode):
        # Of another's file that this process may write, the mode is not its to change.
        with suppress(PermissionError):
            os.fchmod(handle, 0o600)
    return handle


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are not there, for their owner alone.

    One that is there is left as it is.

    Args:
        folder: where it is to be.

    Raises:
        OSError: if it cannot be made.
    """
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    # From the top down, one by one: `parents=True` would give the mode to the last alone.
    for one in reversed(missing):
        # Another process may make it in the same moment.
        one.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)
