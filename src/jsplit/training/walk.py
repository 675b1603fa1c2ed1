"""A walk: operations at parties, each of which reads and writes names of its own party.

A walk is run whole, operation by operation (`execute`), or in turns
(`turns`): the longest runs of operations that one party can do before
it must wait for a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax

from jsplit.core.base import PyTree
from jsplit.training.kinds import Kind, OpKind, WireKind


class Name(NamedTuple):
    """The place of one thing in a store, and with it the party whose thing it is.

    Attributes:
        party: whose it is.
        kind: what sort of thing it is. `name[:2]` is the group (party,
            kind).
        what: the node, value, loss or message that it belongs to; ""
            where a party has one.
        reader: of a cotangent that the party computes: the node or loss
            that computes it.
        sender: of a cotangent that came over a crossing: the party that
            sent it.
        summed: whether it is the sum over micro-batches of what lies at
            the name without.
    """

    party: str
    kind: Kind
    what: str = ""
    reader: str = ""
    sender: str = ""
    summed: bool = False


class Wire(NamedTuple):
    """A message under way: the value `what`, or its cotangent, from one party to another."""

    kind: WireKind
    what: str
    sender: str
    receiver: str

    @property
    def label(self) -> str:
        """The message in words. Memories of links have it as their key, in checkpoints too."""
        return f"{self.kind} {self.what} to {self.receiver}"


# Both are tuples of strings of different lengths, so none equals one of
# the other, and all can be sorted: JAX sorts the keys of a dictionary
# that is a pytree.
Address = Name | Wire
Store = dict[Address, PyTree]
"""All that is at hand while a walk runs. Its names tell whose each thing is."""


class Op(NamedTuple):
    """One operation at one party: `run(*reads) -> writes` is a pure function.

    Attributes:
        party: where it runs.
        kind: what it does.
        what: of what: a node, a loss or a message.
        reads: what `run` is given, in order.
        writes: where its results lie, in order.
        run: the function.
    """

    party: str
    kind: OpKind
    what: str
    reads: tuple[Address, ...]
    writes: tuple[Address, ...]
    run: Callable[..., tuple]

    @property
    def label(self) -> str:
        """The operation in words, for people alone."""
        return f"{self.kind} {self.what}".strip()

    @property
    def scope(self) -> str:
        """The operation under its party, as programs and traces of the profiler name it."""
        return f"{self.party}/{self.label}"


def execute(ops: Iterable[Op], store: Store) -> None:
    """Run operations in order, in a store that holds what the first of them read."""
    for op in ops:
        # Names alone: they are no part of what is compiled, and a trace of the profiler
        # shows by them whose time it is.
        with jax.named_scope(op.scope):
            results = op.run(*[store[r] for r in op.reads])
        store.update(zip(op.writes, results, strict=True))


class Turn(NamedTuple):
    """What one party does between two messages: one function from `reads` to `writes`."""

    party: str
    ops: tuple[Op, ...]
    reads: tuple[Address, ...]
    writes: tuple[Address, ...]

    def run(self, *values: PyTree) -> tuple:
        """The values of `writes`, from those of `reads`."""
        store = dict(zip(self.reads, values, strict=True))
        execute(self.ops, store)
        return tuple(store[w] for w in self.writes)


class Walk(NamedTuple):
    """Operations in an order in which they can run, and what must be left at their end."""

    ops: tuple[Op, ...]
    keep: frozenset[Address]

    def turns(self) -> list[Turn]:
        """The walk in turns."""
        return turns(self.ops, self.keep)


def turns(ops: Sequence[Op], keep: Iterable[Address]) -> list[Turn]:
    """Cut a walk into turns, each as long as it can be.

    Args:
        ops: the walk.
        keep: what must be left at the end; a turn gives back no other
            name that no later turn reads.

    Returns:
        The turns, in an order in which they can run.
    """
    made: list[Turn] = []
    later = set(keep)

    # From the last turn back, since what a turn must give is what those
    # after it read.
    for group in reversed(_grouped(ops)):
        reads, written = _reads_and_writes(group)
        writes = tuple(w for w in written if w in later)
        made.append(Turn(group[0].party, tuple(group), tuple(reads), writes))
        later = (later - written.keys()) | reads.keys()
    return made[::-1]


def _grouped(ops: Sequence[Op]) -> list[list[Op]]:
    """The operations of each turn."""
    before = _must_wait_for(ops)
    done: set[int] = set()
    groups: list[list[Op]] = []

    while len(done) < len(ops):
        left = [j for j in range(len(ops)) if j not in done]
        party = next(ops[j].party for j in left if before[j] <= done)
        group: list[Op] = []

        # `done` grows within the loop: an operation may follow one of
        # its own turn.
        for j in left:
            if ops[j].party == party and before[j] <= done:
                group.append(ops[j])
                done.add(j)
        groups.append(group)
    return groups


def _must_wait_for(ops: Sequence[Op]) -> list[set[int]]:
    """By operation, the earlier ones that must be done before it."""
    waits: list[set[int]] = []
    for j, op in enumerate(ops):
        reads, writes = {*op.reads}, {*op.writes}
        # Quadratic, but walks have tens of operations and are cut once.
        earlier: set[int] = set()
        for i, other in enumerate(ops[:j]):
            needs_its_results = reads & {*other.writes}
            # What another reads or writes must not be replaced before
            # it has run.
            replaces = writes & {*other.reads, *other.writes}
            if needs_its_results or replaces:
                earlier.add(i)
        waits.append(earlier)
    return waits


def _reads_and_writes(
    group: Sequence[Op],
) -> tuple[dict[Address, None], dict[Address, None]]:
    """What operations read that none of them wrote before, and all that they write, in order."""
    reads: dict[Address, None] = {}
    written: dict[Address, None] = {}
    for op in group:
        reads.update((r, None) for r in op.reads if r not in written)
        written.update(dict.fromkeys(op.writes))
    return reads, written
