"""The most memory that a process holds while a block runs, mapped files left out.

Pages of a mapped file are the system's own copy of it: it takes them back when it needs memory.
"""

from __future__ import annotations

import threading
from pathlib import Path

LOOKS = 0.005  # seconds between two looks
STATUS = Path("/proc/self/status")


class Peak:
    """`with Peak() as peak:` looks at memory while the block runs; then `peak.bytes` is the most.

    Raises:
        RuntimeError: where the system does not tell files apart: any but Linux.
    """

    def __init__(self) -> None:
        if not STATUS.exists():
            raise RuntimeError("Memory is measured on Linux alone: give --no-memory.")
        self.bytes, self._over = 0, threading.Event()
        self._looks = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._looks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looks.join()

    def _look(self) -> None:
        # The peak that Linux keeps counts files too, so it is looked for here.
        while True:
            self.bytes = max(self.bytes, held())
            if self._over.wait(LOOKS):
                return


def held() -> int:
    """What this process holds now, in bytes, without mapped files."""
    return 1024 * int(STATUS.read_text().split("RssAnon:")[1].split()[0])
