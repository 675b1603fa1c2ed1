"""The micro-batches of one step, several under way at once, in the order in which messages come.

Whatever the order, the numbers are the same: programs that share what
one of them changes keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from jsplit.party.compute.programs import MicroStore, PartyPrograms, StepCarrier
from jsplit.training.walk import Wire

_ENDED = object()


class WaitingCarrier(StepCarrier, Protocol):
    """A carrier that can tell which messages have come."""

    def there(self, wire: Wire, micro: int) -> bool:
        """Whether the message of a micro-batch has come."""
        ...

    def wait(self, wanted: Sequence[tuple[Wire, int]]) -> None:
        """Wait until one of several messages, by wire and micro-batch, has come."""
        ...


def interleave(
    part: PartyPrograms,
    stores: Sequence[MicroStore],
    done: Sequence[int],
    at: WaitingCarrier,
    meanwhile: Iterator[None],
) -> None:
    """Run all programs of all micro-batches; first what others wait for.

    Args:
        part: the programs.
        stores: one for each micro-batch.
        done: how many programs of each micro-batch have run before.
        at: what carries messages.
        meanwhile: work to do, a little at a time, while none of the
            programs can run.
    """
    waiting = [
        (m, t) for m in range(len(stores)) for t in range(done[m], len(part.programs))
    ]
    while waiting:
        # Of each program that may run, the messages that it lacks.
        absent = {
            (m, t): [(w, m) for w in part.programs[t].waits_for if not at.there(w, m)]
            for m, t in part.ready(waiting)
        }
        able = [task for task, wanted in absent.items() if not wanted]
        if able:
            # Others wait for what is sent: that first, and then the
            # oldest micro-batch.
            task = min(able, key=lambda task: (not part.sends[task[1]], task))
            m, t = task
            part.turn(t, stores[m], at, m)
            waiting.remove(task)
        elif next(meanwhile, _ENDED) is _ENDED:
            at.wait([x for wanted in absent.values() for x in wanted])
