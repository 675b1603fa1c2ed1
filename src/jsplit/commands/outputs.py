"""Where a command writes its results: refused before what is written there is computed."""

from __future__ import annotations

import os
from pathlib import Path

from jsplit.core.files import write_whole


def check_file(file: Path) -> None:
    """Refuse a file that could not be written in the end.

    Args:
        file: of `--out`.

    Raises:
        ValueError: if it is a folder, or is in none in which files can be written.
    """
    may = os.access(file, os.W_OK) if _is_device(file) else _takes_files(file.parent)
    if file.is_dir() or not may:
        raise ValueError(
            "`--out` must be a file in a folder in which files can be written, got "
            f"{file}."
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder in which nothing can be written; none is made yet.

    Args:
        folder: of `--out`, which need not be there.

    Raises:
        ValueError: if it is none, or nothing can be written into it.
    """
    there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not _takes_files(there):
        raise ValueError(
            f"`--out` must be a folder in which files can be written, got {folder}."
        )


def write_text(file: Path, text: str) -> None:
    """Write a text durably, or to a device.

    Args:
        file: of `--out`.
        text: what it says then.
    """
    if _is_device(file):
        # As /dev/null, in whose place all others would find a file.
        file.write_text(text, encoding="utf-8")
    else:
        write_whole(file, text)


def _is_device(file: Path) -> bool:
    return file.exists() and not (file.is_file() or file.is_dir())


def _takes_files(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
