"""Files that only their owner may read: a secret that others on the machine can read is none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_ROOT = 0


def check_private(file: Path) -> None:
    """Refuse a secret that others than its owner can read.

    A file of root may be readable by its group, as PostgreSQL has it too: so a secret is mounted
    into a container whose process is not root.

    Args:
        file: that holds the secret.

    Raises:
        ValueError: naming the file, and what to do.
        OSError: if it cannot be looked at.
    """
    # Elsewhere, as on Windows, modes say nothing of who may read.
    if os.name != "posix":
        return
    # Not of a link, as which secrets are mounted, but of what it leads to.
    found = file.stat()
    mode = stat.S_IMODE(found.st_mode)
    others = 0o037 if found.st_uid == _ROOT else 0o077
    if mode & others:
        raise ValueError(
            f"{file} can be read or written by others than its owner (mode {mode:04o}): "
            f"chmod 600 {file}"
        )
