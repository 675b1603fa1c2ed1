"""What a party does of a step before its time, while it waits for others.

It makes the batch, and runs the programs before the first message in
which nothing is read that the step before changes: those of frozen
segments. What they send is held until their step has come, as the
session expects it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.trees import batch_of
from jsplit.party.compute.programs import MicroStore, PartyPrograms
from jsplit.party.contract.record_order import Batches
from jsplit.training.left_out import fill, normalise_weight
from jsplit.training.store import PartyLayout
from jsplit.training.walk import Address, Name, Store, Wire


def fields_of_batch(
    layout: PartyLayout, batch: Mapping[str, PyTree], weight: str
) -> Store:
    """The fields of a batch that the party holds, and its weights, under their names.

    Args:
        layout: of the party.
        batch: by name.
        weight: the name of the weights, if records have any.
    """
    own = {f: x for f, x in batch.items() if f in layout.fields}
    # Of the whole batch, so that the parts of it are weighted as the whole is.
    if weight in batch:
        own = fill(batch[weight], own)
    found: Store = {layout.fields[f]: x for f, x in own.items()}
    if weight in batch:
        found[layout.weight] = normalise_weight(batch[weight])
    return found


def copied(tree: PyTree) -> PyTree:
    """The same in arrays of this party's own."""
    # Whoever gave a batch may fill the same memory with the next, while
    # this one is still read: on a CPU, JAX takes NumPy's memory as it
    # is.
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


@dataclass
class PrefetchedStep:
    """A step that has been begun.

    Attributes:
        batches: what gives its batch.
        step: its number.
        own: the store of each micro-batch, once the batch is there.
        done: how many programs of each have run.
        held: what these have sent: micro-batch, wire, value.
        read: what they have read that outlasts a step.
    """

    batches: Batches
    step: int
    own: list[Store] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    held: list[tuple[int, Wire, PyTree]] = field(default_factory=list)
    read: dict[Address, PyTree] = field(default_factory=dict)

    def fits(
        self, batches: Batches, step: int, store: Mapping[Address, PyTree]
    ) -> bool:
        """Whether what was computed is what this store would give."""
        if self.batches is not batches or self.step != step:
            return False
        # By identity: a state that came from a checkpoint may have the
        # same values and is not what was read, and comparing values
        # would wait for them.
        for name, x in self.read.items():
            was, now = jax.tree.leaves(x), jax.tree.leaves(store[name])
            if any(a is not b for a, b in zip(was, now, strict=True)):
                return False
        return True

    def gather(self, layout: PartyLayout, micros: int, weight: str) -> None:
        """Make the batch, in arrays of this party's own, unless it is there."""
        if self.own:
            return
        fields = fields_of_batch(layout, self.batches(self.step), weight)
        self.done = [0] * micros
        if micros == 1:
            self.own = [copied(fields)]
            return
        for m in range(micros):
            # A party without fields has micro-batches too: it is told
            # which each is.
            part = jax.tree.map(lambda x, m=m: part_of(x, m, micros), fields)
            self.own.append({layout.micro: np.int32(m)} | copied(part))

    def lead(
        self,
        part: PartyPrograms,
        count: int,
        store: Mapping[Address, PyTree],
        counter: Name,
    ) -> Iterator[None]:
        """Run the first programs of every micro-batch, one at a time.

        Args:
            part: the programs.
            count: how many of them.
            store: what they read, as it is now and will be in their
                step.
            counter: where the number of the step lies, which they read
                as it will be.
        """
        # A copy: nothing that these programs leave may be seen by the
        # step under way.
        common = {**store, counter: jnp.int32(self.step)}
        self.read = {
            r: store[r]
            for program in part.programs[:count]
            for r in program.reads
            if r in store and r != counter
        }
        for m, own in enumerate(self.own):
            mine = MicroStore(common, own, part.shared)
            for t in range(count):
                part.turn(t, mine, self, m)
                self.done[m] = t + 1
                yield

    def send(self, micro: int, wire: Wire, value: PyTree) -> None:
        """Hold what is sent until its step."""
        self.held.append((micro, wire, value))

    def take(self, micro: int, wire: Wire) -> PyTree:
        """Nothing has been sent before its step, so no program here may ask."""
        raise ValueError(f"{wire.label} is not there before its step.")


def part_of(x: PyTree, number: int, count: int) -> PyTree:
    """One of `count` equal parts of an array, along its first axis."""
    size = x.shape[0] // count
    return x[number * size : (number + 1) * size]


def check_size(batch: Mapping[str, PyTree], size: int) -> None:
    """Refuse a batch of another size than agreed; a party may have no field at all."""
    if batch and (got := batch_of(batch)) != size:
        raise ValueError(f"the batch has {got} examples, the agreement says {size}.")
