"""A party's programs, compiled before it begins, so that nobody waits for that in a step.

Nothing is computed: each program is compiled for the shapes that reach it, which follow
from the agreement and from what the party has brought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import jax
import numpy as np
from jax.stages import Lowered

from jsplit.core.base import PartyState, PyTree
from jsplit.party.compute.handover import on_device, shapes_of_learned
from jsplit.party.compute.local import Local
from jsplit.party.compute.prefetch import copied, fields_of_batch, part_of
from jsplit.party.compute.programs import MicroStore, PartyPrograms
from jsplit.party.task import Task, TaskKind
from jsplit.training.executor import run_program
from jsplit.training.initial import example
from jsplit.training.kinds import Kind
from jsplit.training.walk import Store, Wire


class _Shapes:
    """In the place of messages: the shapes of what others would send."""

    def __init__(self, local: Local, size: int):
        self.local, self.size = local, size

    def send(self, wire: Wire, value: PyTree, /) -> None:
        """Nothing goes anywhere."""

    def take(self, wire: Wire, /) -> PyTree:
        """The shapes of a message, in the form in which a program reads it."""
        return self.local.received(wire, self.size)


@dataclass(frozen=True)
class Warming:
    """The programs that a party will run, and the shapes of what it has for them.

    Attributes:
        local: the party's part of the computation.
        task: that it is at.
        state: shapes of its state.
        fields: of its data, by name, one record at least.
        more: what compiles each program beside those of walks, for a batch of a size.
    """

    local: Local
    task: Task
    state: PartyState
    fields: Mapping[str, PyTree]
    more: Callable[[int], Iterator[Callable[[], object]]] = lambda _: iter(())

    def compile(self, enough: Callable[[], bool]) -> int:
        """Compile all of them, one after the other.

        Args:
            enough: whether to leave the rest, as when the party is asked to stop.

        Returns:
            How many there were.
        """
        count = 0
        for one in self._programs():
            if enough():
                break
            one()
            count += 1
        return count

    def _programs(self) -> Iterator[Callable[[], object]]:
        """What compiles each program, in the order in which they first run."""
        sizes = dict.fromkeys(
            self.task.size_of(step) for step in (0, self.task.steps - 1)
        )
        for size in sizes:
            yield partial(self._gather, size)
            yield from self.more(size)
            if self.task.kind is TaskKind.TRAIN:
                yield from self._training(size)
            else:
                predicts = self.task.kind is TaskKind.PREDICT
                part = self.local.infer if predicts else self.local.measure
                batch = self._batch(size)
                store = jax.eval_shape(self.local.load, self.state, batch)
                yield from self._of(part, store, size)

    def _training(self, size: int) -> Iterator[Callable[[], object]]:
        local, layout = self.local, self.local.layout[self.local.party]
        store: Store = jax.eval_shape(local.load, self.state, {})
        fields = partial(fields_of_batch, layout, weight=local.agreed.weight)
        own = jax.eval_shape(fields, self._batch(local.micros * size))
        if local.micros > 1:
            first = partial(part_of, number=0, count=local.micros)
            own = jax.eval_shape(lambda x: jax.tree.map(first, x), own)
            own[layout.micro] = jax.ShapeDtypeStruct((), "int32")
            store |= local.zero_sums({**store, **own}, size)
            # Of zeros that are there: it is no program of a walk.
            yield partial(local.mean_losses, dict(store))
        if local.late:
            for name in layout.params.values():
                own[name._replace(kind=Kind.HELD_PARAMS)] = store[name]
        if local.turns.handoff != "none" and len(local.turns.names) > 1:
            yield self._take_over
        yield from self._of(local.walk, MicroStore(store, own, local.walk.shared), size)
        if local.micros > 1:
            yield from self._of(local.finish, store, size)

    def _of(
        self, part: PartyPrograms, store: Store | MicroStore, size: int
    ) -> Iterator[Callable[[], object]]:
        """What compiles each program of a walk, and leaves its results' shapes."""
        messages = _Shapes(self.local, size)
        for program in part.programs:
            compiling = program._replace(
                function=partial(_compiled, cast(_Jitted, program.function))
            )
            yield partial(run_program, compiling, store, messages)

    def _gather(self, size: int) -> None:
        """Do with zeros what is done with every batch, outside of any program."""
        local = self.local
        if self.task.kind is TaskKind.TRAIN:
            size *= local.micros
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._batch(size))
        layout = local.layout[local.party]
        fields = fields_of_batch(layout, zeros, local.agreed.weight)
        if self.task.kind is TaskKind.TRAIN:
            first = partial(part_of, number=0, count=local.micros)
            copied(jax.tree.map(first, fields) if local.micros > 1 else fields)

    def _take_over(self) -> None:
        """Bring zeros to the device as what is handed over, one array at a time."""
        for dtype, shape in shapes_of_learned(self.state, self.local.layout):
            on_device(np.zeros(shape, dtype))

    def _batch(self, size: int) -> dict[str, PyTree]:
        return {name: example(name, x, size) for name, x in self.fields.items()}


class _Jitted(Protocol):
    """What `jax.jit` gives, as far as it is used here."""

    def __call__(self, *args: PyTree) -> PyTree: ...

    def lower(self, *args: PyTree) -> Lowered: ...


def _compiled(function: _Jitted, *shapes: PyTree) -> PyTree:
    """Compile a jitted function for arguments of these shapes, and give its results'."""
    # JAX keeps what it has compiled so: a call with arrays of these shapes finds it.
    function.lower(*shapes).compile()
    return jax.eval_shape(function, *shapes)
