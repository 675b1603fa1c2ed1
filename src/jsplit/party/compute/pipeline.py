"""Steps that overlap: a bounded staleness, in an order that is fixed in advance.

Turn `i` of the `n` turns of a step comes `floor(i * staleness / (n -
1))` steps late, and all turns of all steps follow one another by (step
+ lateness, i). Every party takes its own in this one order, whatever
the timing, so the numbers are the same in every run and nobody waits in
a circle. A step reads the parameters of a party as they are at its
first turn there, in its backward pass too; they lack at most the last
`staleness` updates, and updates are applied in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp

from jsplit.party.compute.prefetch import copied, fields_of_batch
from jsplit.party.compute.programs import MicroStore, PartyPrograms, StepCarrier
from jsplit.party.contract.record_order import Batches
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.store import PartyLayout
from jsplit.training.walk import Address, Name, Op, Store


def lateness(turns: int, staleness: int) -> list[int]:
    """By how many steps each turn of a step comes later than it could."""
    return [i * staleness // max(turns - 1, 1) for i in range(turns)]


def order(
    own: Sequence[int], late: Sequence[int], first: int, last: int
) -> Iterator[tuple[int, int]]:
    """Some turns of several steps, as they follow one another.

    Args:
        own: the turns, by their place in a step.
        late: of all turns, see `lateness`.
        first: the first step.
        last: the step after the last.

    Yields:
        Step and turn.
    """
    for time in range(first, last + max(late)):
        # Within one time by the place of the turn: what is sent comes
        # before it is read.
        for i in sorted(own):
            step = time - late[i]
            if first <= step < last:
                yield step, i


def held(ops: Sequence[Op]) -> list[Op]:
    """A training step of which only the update, and what checks it, has the newest parameters."""

    def held_name(name: Address) -> Address:
        if isinstance(name, Name) and name.kind == Kind.PARAMS:
            return name._replace(kind=Kind.HELD_PARAMS)
        return name

    # The backward pass must read the parameters of its forward pass,
    # which updates of earlier steps have replaced since.
    return [
        op
        if op.kind in (OpKind.UPDATE, OpKind.CHECK)
        else op._replace(reads=tuple(map(held_name, op.reads)))
        for op in ops
    ]


class Pipeline:
    """One party's steps from `first` up to `last`, several of them under way at once.

    After the last it is empty, and all that is left is in `store`.

    Args:
        programs: its programs of the training step, as `held` gives it.
        layout: of what the party has.
        store: what outlasts a step.
        batches: what gives the batch of a step.
        late: see `lateness`.
        first: the first step.
        last: the step after the last.
        weight: the name of the weights of records, if they have any.
    """

    def __init__(
        self,
        programs: PartyPrograms,
        layout: PartyLayout,
        store: Store,
        batches: Batches,
        late: Sequence[int],
        first: int,
        last: int,
        weight: str,
    ):
        self.programs, self.layout, self.store, self.batches = (
            programs,
            layout,
            store,
            batches,
        )
        # Each step under way has its own number, on which its
        # randomness depends.
        self.shared = programs.shared - {layout.step}
        self.next, self.last, self.weight = first, last, weight
        self.order = order(list(programs.by_turn), late, first, last)
        self.under_way: dict[int, MicroStore] = {}

    def fits(self, batches: Batches, step: int) -> bool:
        """Whether this is the step that comes next, of the same run."""
        return self.batches is batches and self.next == step < self.last

    def step(self, step: int, at: Callable[[int], StepCarrier]) -> Store:
        """Run all turns that come no later than the last one of a step.

        Args:
            step: its number.
            at: what carries the messages of a step, by its number.

        Returns:
            What the step itself has left.
        """
        final = max(self.programs.by_turn)
        # The order goes on where the step before left it: it is one for
        # all steps.
        for number, turn in self.order:
            if number not in self.under_way:
                self.under_way[number] = self._begin(number)
            for program in self.programs.by_turn[turn]:
                self.programs.turn(program, self.under_way[number], at(number), 0)
            if (number, turn) == (step, final):
                break
        self.next = step + 1
        return self.under_way.pop(step).own

    def _begin(self, step: int) -> MicroStore:
        """The store of a step, with its batch and the parameters as they are now."""
        own = copied(fields_of_batch(self.layout, self.batches(step), self.weight))
        # Not copied: no program donates parameters while steps overlap.
        for name in self.layout.params.values():
            own[name._replace(kind=Kind.HELD_PARAMS)] = self.store[name]
        own[self.layout.step] = jnp.int32(step)
        return MicroStore(self.store, own, self.shared)
