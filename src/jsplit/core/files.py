"""Where a party's file lies in a folder, and that its name is on disk.

A name is readable where the party's is, and no two parties share one.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
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
