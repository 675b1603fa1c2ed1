"""What a party does of a step before its time, while it waits for others: the batch, and turns that nothing can change.

These are the turns before its first message in which nothing is read that a turn of the step before changes: those of frozen
segments. What they send is held until their step has come, as the session expects it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.party.compute.programs import MicroStore, PartyPrograms
from jsplit.party.contract.records import Batches
from jsplit.training.store import PartyLayout
from jsplit.training.walk import Name, Store, Wire


def fields_of_batch(
    layout: PartyLayout, batch: Mapping[str, PyTree]
) -> dict[Name, PyTree]:
    return {layout.fields[f]: x for f, x in batch.items() if f in layout.fields}


def copied(tree: PyTree) -> PyTree:
    """In arrays of this party's own: whoever gave a batch may fill the same memory with the next."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


@dataclass
class PrefetchedStep:
    """A step that has been begun.

    Attributes:
        batches: what gives its batch; `step`: its number.
        own: the memory of each micro-batch, once the batch is there.
        done: how many turns of each are done.
        held: what these have sent: micro-batch, wire, value.
        read: what they have read that outlasts a step.
    """

    batches: Batches
    step: int
    own: list[dict] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    held: list[tuple[int, Wire, PyTree]] = field(default_factory=list)
    read: dict[Any, PyTree] = field(default_factory=dict)

    def fits(self, batches: Batches, step: int, memory: Mapping) -> bool:
        """Whether it would begin just so from this memory."""
        same = (
            a is b
            for n, x in self.read.items()
            for a, b in zip(*map(jax.tree.leaves, (x, memory[n])), strict=True)
        )
        return self.batches is batches and self.step == step and all(same)

    def gather(self, layout: PartyLayout, micros: int) -> None:
        """Make the batch, in arrays of this party's own, unless it is there."""
        if self.own:
            return
        fields = fields_of_batch(layout, self.batches(self.step))
        if micros == 1:
            self.own = [copied(fields)]
        else:
            size = (
                {x.shape[0] for x in jax.tree.leaves(fields)}.pop() // micros
                if fields
                else 0
            )
            parts = [
                jax.tree.map(lambda x, m=m: x[m * size : (m + 1) * size], fields)
                for m in range(micros)
            ]
            self.own = [
                {layout.micro: np.int32(m)} | copied(part)
                for m, part in enumerate(parts)
            ]
        self.done = [0] * micros

    def lead(
        self, part: PartyPrograms, count: int, memory: Mapping, counter: Name
    ) -> Iterator[None]:
        """The first `count` turns of every micro-batch, one at a time, as they will be when `counter` says its step."""
        common = {**memory, counter: jnp.int32(self.step)}
        self.read = {
            r: memory[r]
            for program in part.programs[:count]
            for r in program.reads
            if r in memory and r != counter
        }
        for m, own in enumerate(self.own):
            mine = MicroStore(common, own, part.shared)
            for t in range(count):
                part.turn(t, mine, self, m)
                self.done[m] = t + 1
                yield

    def send(self, wire: Wire, value: PyTree, micro: int) -> None:
        self.held.append((micro, wire, value))

    def take(self, wire: Wire, micro: int) -> PyTree:
        raise ValueError(f"{wire.label} is not there before its step.")
