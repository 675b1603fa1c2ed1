"""What was made lately, by what it is of: so many are kept, and the one unused longest goes.

Who serves is asked for sizes by others, and must not keep what it made for each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Made = TypeVar("_Made")


class Recent(Generic[_Made]):
    """Things that cost something to make, the last that were used.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int):
        self.most = most
        self._there: dict[Hashable, _Made] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._there)

    def values(self) -> list[_Made]:
        """All that are kept."""
        with self._lock:
            return [*self._there.values()]

    def of(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What is there of a key; else it is made, and the one unused longest goes."""
        with self._lock:
            if key in self._there:
                # At the end of the order in which a dictionary keeps its keys.
                self._there[key] = self._there.pop(key)
                return self._there[key]
        # Outside: what one thread makes may take long, and others need what is there.
        made = make()
        with self._lock:
            self._there[key] = made
            while len(self._there) > self.most:
                del self._there[next(iter(self._there))]
        return made
