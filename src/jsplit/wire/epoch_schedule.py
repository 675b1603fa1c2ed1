"""In which steps crossings of a validation are used: in the last one of each epoch.

What trains crosses in the steps of turns, as without epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jsplit.wire.schedule import Schedule
from jsplit.wire.steps import Steps


@dataclass(frozen=True)
class EpochSchedule(Schedule):
    """When crossings are used in a training by epochs.

    Attributes:
        every: steps of an epoch.
        steps: of the run, whole epochs.
        training: how many crossings are of the steps and of turns; those after them
            are of what comes at the end of an epoch.
    """

    every: int = 1
    steps: int = 1
    training: int = 0

    def steps_of(self, crossing: int, sender: int) -> Steps:
        """The steps in which a crossing is used; see `Schedule`."""
        if crossing < self.training:
            return super().steps_of(crossing, sender)
        return self._ends

    @cached_property
    def _ends(self) -> Steps:
        ends = range(self.every - 1, self.steps, self.every)
        return Steps.of([(step, step + 1) for step in ends])
