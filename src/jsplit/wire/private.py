"""Files that are their owner's alone: a secret that others on the machine can read is none.

And an authority that others on the machine can write is not the one that was meant.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

_ROOT = 0
_log = logging.getLogger("jsplit.wire")


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


def warn_of_writers(*paths: Path) -> None:
    """Say of files and folders that others can write them, and so whom one believes.

    Args:
        paths: what others should leave as it is.

    Raises:
        OSError: if one cannot be looked at.
    """
    if os.name != "posix":
        return
    for path in paths:
        mode = path.stat().st_mode
        # Into such a folder, as Kubernetes mounts secrets, others may put files, but cannot
        # replace those that are there.
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
            continue
        if mode & 0o022:
            _log.warning(
                "%s can be written by others, who could choose which certificates are "
                "believed: chmod go-w %s",
                path,
                path,
            )
