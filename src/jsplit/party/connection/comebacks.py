"""Clients whose processes come back over and over while nothing gets on.

Each new process of a party lets all go back to their newest checkpoint, and none of them
stays away for `patience`. So how often that was is counted, until all have a newer one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

_MANY = 3
"""New processes of a client within two checkpoints, after which it is not waited for once
more. Of one that stays connected by letting its next process come before the last has
ended, twice as many.
"""


@dataclass
class _Comeback:
    """What is known of the processes of one party.

    Attributes:
        instance: the newest.
        step: the newest that all had on disk when the first of these came.
        count: how many have come since then, each after another.
        since: when the first of these came.
    """

    instance: int
    step: int
    count: int = 0
    since: float = 0.0


class Comebacks:
    """By party, how often it has come back as another process since all got on."""

    def __init__(self) -> None:
        self.known: dict[int, _Comeback] = {}

    def greeted(self, peer: int, instance: int, step: int) -> None:
        """Note that a process has said hello.

        Args:
            peer: whose.
            instance: its number.
            step: the newest that all have on disk.
        """
        known = self.known.get(peer)
        if known is None:
            self.known[peer] = _Comeback(instance, step)
            return
        if step > known.step:
            known.step, known.count = step, 0
        if instance != known.instance:
            known.instance = instance
            known.count += 1
            if known.count == 1:
                known.since = time.monotonic()

    def is_in_vain(self, peer: int, step: int, patience: float, *, lost: bool) -> bool:
        """Whether a party has come back often enough, for `patience`, and nothing got on.

        Args:
            peer: which.
            step: the newest that all have on disk.
            patience: seconds.
            lost: whether it is away again.
        """
        known = self.known.get(peer)
        if known is None or step > known.step:
            return False
        # Who is there now may be the one that gets on.
        many = _MANY if lost else 2 * _MANY
        return known.count >= many and time.monotonic() - known.since > patience
