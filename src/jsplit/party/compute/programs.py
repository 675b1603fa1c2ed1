"""One party's programs of a walk, which wait for messages and serve several micro-batches.

The executor runs each; here stands which of them may run before which
others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from functools import partial
from typing import NamedTuple, Protocol

import jax

from jsplit.core.base import PyTree
from jsplit.training.executor import CompiledWalk, Program, jitted, run_program
from jsplit.training.kinds import PERSISTENT, Kind
from jsplit.training.walk import Address, Name, Op, Store, Walk, Wire


class StepCarrier(Protocol):
    """What carries the messages of one step, of all its micro-batches."""

    def send(self, micro: int, wire: Wire, value: PyTree) -> None:
        """Send the value of one micro-batch."""
        ...

    def take(self, micro: int, wire: Wire) -> PyTree:
        """The value of one micro-batch; waits for it."""
        ...


class _OfMicrobatch:
    """The messages of one micro-batch, as the executor sends and takes them."""

    def __init__(self, at: StepCarrier, micro: int):
        # Partial functions, not methods: a message goes through no
        # Python frame more.
        self.send = partial(at.send, micro)
        self.take = partial(at.take, micro)


class MicroStore:
    """The store of one micro-batch: its own things, before those that all share.

    Args:
        common: what all micro-batches share; writes of `shared` names
            go there.
        own: all else that it writes.
        shared: the names that outlast a micro-batch.
    """

    def __init__(self, common: Store, own: Store, shared: frozenset[Name]):
        self.common, self.own, self.shared = common, own, shared

    def __getitem__(self, name: Address) -> PyTree:
        return self.own[name] if name in self.own else self.common[name]

    def __setitem__(self, name: Address, value: PyTree) -> None:
        (self.common if name in self.shared else self.own)[name] = value

    def __delitem__(self, name: Address) -> None:
        # What is common has its last use in the last micro-batch, which
        # no turn knows.
        self.own.pop(name, None)


class _Touched(NamedTuple):
    """What a program touches of all that changes, and what of it the program writes."""

    touches: Set[Name]
    writes: Set[Name]


class PartyPrograms:
    """One party's programs of a walk.

    Args:
        party: whose they are.
        walk: that of all parties.
        donate: buffers of these kinds are donated by the program that
            replaces them.
        kernels: how operations are computed, as for `jsplit.fused`.

    Attributes:
        programs: in order.
        ops: the operations that they are made of.
        count: how many turns the walk has, of all parties.
        by_turn: of each turn of this party, by its place among those of
            all, its programs.
        sends: of each program, whether others wait for it.
        shared: what outlasts a micro-batch and is written by some
            program.
        changing: that part of it which `look` did not find empty.
    """

    def __init__(
        self,
        party: str,
        walk: Walk,
        donate: Collection[Kind] = (Kind.OPTIMIZER, Kind.PARAMS),
        kernels: str = "fast",
    ):
        compiler = jitted(donate, kernels=kernels)
        compiled = CompiledWalk(walk.turns(), walk.keep, compiler)
        own = [turn for turn in compiled.turns if turn.party == party]
        self.count = len(compiled.turns)
        self.ops: list[Op] = [op for turn in own for op in turn.ops]
        self.programs: list[Program] = [
            program for program in compiled.programs if program.party == party
        ]
        self.by_turn: dict[int, list[int]] = {}
        for t, program in enumerate(self.programs):
            self.by_turn.setdefault(program.turn, []).append(t)

        self.sends = [
            any(isinstance(w, Wire) for w in program.writes)
            for program in self.programs
        ]
        written = [w for program in self.programs for w in program.writes]
        self.shared = frozenset(
            w
            for w in written
            if isinstance(w, Name) and (w.kind in PERSISTENT or w.summed)
        )
        self.look({})

    def look(self, store: Mapping[Address, PyTree]) -> None:
        """Leave out of what changes whatever is empty, as the statistics of a segment without any.

        Programs that touch nothing else in common can then run in any
        order.
        """
        self.changing = frozenset(
            n for n in self.shared if n not in store or jax.tree.leaves(store[n])
        )
        self.touched: list[_Touched] = []
        for program in self.programs:
            written = self.changing & {*program.writes}
            self.touched.append(
                _Touched(written | (self.changing & program.needs), written)
            )

    def run(self, store: Store, at: StepCarrier) -> None:
        """All programs in order, of a step without micro-batches."""
        for t in range(len(self.programs)):
            self.turn(t, store, at, 0)

    def turn(
        self, t: int, store: Store | MicroStore, at: StepCarrier, micro: int
    ) -> None:
        """One program of one micro-batch."""
        run_program(self.programs[t], store, _OfMicrobatch(at, micro))

    def leading(self, changed: Set[Name]) -> int:
        """How many programs come before all that wait for a message or touch what is `changed`."""
        for t, program in enumerate(self.programs):
            if program.waits_for or changed & {*program.needs, *program.writes}:
                return t
        return len(self.programs)

    def ready(self, waiting: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Which programs may run now, as far as their stores go, oldest first.

        Args:
            waiting: micro-batch and program of all that have not run
                yet, in order.
        """
        found = []
        for i, (m, t) in enumerate(waiting):
            blocked = any(
                # Within a micro-batch programs run in order. Across
                # micro-batches each program does, and two that share
                # what one of them changes.
                k == m or u == t or self._conflict(u, t)
                for k, u in waiting[:i]
            )
            if not blocked:
                found.append((m, t))
        return found

    def _conflict(self, u: int, t: int) -> bool:
        """Whether one of two programs changes what the other touches."""
        one, other = self.touched[u], self.touched[t]
        return bool(one.writes & other.touches or other.writes & one.touches)
