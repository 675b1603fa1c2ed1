"""Steps that overlap: a bounded staleness, in an order that is fixed in advance.

Turn `i` of the `n` turns of a step comes `floor(i * staleness / (n - 1))` steps late, and all turns of all steps follow one
another by (step + lateness, i). Every party takes its own in this one order, whatever the timing, so the numbers are the same
in every run and nobody waits in a circle. A step reads the parameters of a party as they are at its first turn there, in its
backward pass too; they lack at most the last `staleness` updates, and updates are applied in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.party.compute.prefetch import copied, fields_of_batch
from jsplit.party.compute.programs import MicroStore, PartyPrograms, StepCarrier
from jsplit.party.contract.records import Batches
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.store import PartyLayout
from jsplit.training.walk import Name, Op, Store


def lateness(turns: int, staleness: int) -> list[int]:
    """By how many steps each turn of a step comes later than it could."""
    return [i * staleness // max(turns - 1, 1) for i in range(turns)]


def order(
    own: Sequence[int], late: Sequence[int], first: int, last: int
) -> Iterator[tuple[int, int]]:
    """Step and turn, of some turns of all steps from `first` up to `last`, as they follow one another."""
    for time in range(first, last + max(late)):
        yield from (
            (time - late[i], i) for i in sorted(own) if first <= time - late[i] < last
        )


def held(ops: Sequence[Op]) -> list[Op]:
    """A training step of which only the update reads parameters as they are now."""

    def read(op: Op) -> Op:
        reads = (
            r._replace(kind=Kind.HELD_PARAMS)
            if isinstance(r, Name) and r.kind == Kind.PARAMS
            else r
            for r in op.reads
        )
        return op if op.kind == OpKind.UPDATE else op._replace(reads=tuple(reads))

    return [read(op) for op in ops]


class Pipeline:
    """One party's steps from `first` up to `last`, several of them under way at once; then it is empty.

    Args:
        part: its turns of the training step, as `held` gives them.
        places: of what it has.
        memory: what outlasts a step.
        batches: what gives the batch of a step.
        late: see `lateness`.
    """

    def __init__(
        self,
        part: PartyPrograms,
        layout: PartyLayout,
        memory: dict,
        batches: Batches,
        late: Sequence[int],
        first: int,
        last: int,
    ):
        self.part, self.layout, self.memory, self.batches = (
            part,
            layout,
            memory,
            batches,
        )
        self.shared, self.next, self.last = part.shared - {layout.step}, first, last
        self.order = order(list(part.by_turn), late, first, last)
        self.under_way: dict[int, MicroStore] = {}

    def fits(self, batches: Batches, step: int) -> bool:
        """Whether this is the step that comes next, of the same run."""
        return self.batches is batches and self.next == step < self.last

    def step(self, step: int, at: Callable[[int], StepCarrier]) -> dict[Name, PyTree]:
        """All turns that come no later than the last one of this step; what the step itself has left in its memory."""
        final = max(self.part.by_turn)
        for number, turn in self.order:
            if number not in self.under_way:
                self.under_way[number] = MicroStore(
                    self.memory, self.begin(number), self.shared
                )
            for program in self.part.by_turn[turn]:
                self.part.turn(program, self.under_way[number], at(number), 0)
            if (number, turn) == (step, final):
                break
        self.next = step + 1
        return self.under_way.pop(step).own

    def begin(self, step: int) -> dict[Name, PyTree]:
        fields = copied(fields_of_batch(self.layout, self.batches(step)))
        params = {
            name._replace(kind=Kind.HELD_PARAMS): self.memory[name]
            for name in self.layout.params.values()
        }
        return {**fields, **params, self.layout.step: jnp.int32(step)}
