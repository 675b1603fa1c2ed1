"""One party's programs of a walk, run as messages come: those of one micro-batch while another waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

import jax

from jsplit.core.base import PyTree
from jsplit.training.executor import PERSISTENT, CompiledWalk, programs
from jsplit.training.update import SUM
from jsplit.training.walk import Name, Op, Turn, Wire


class Carrier(Protocol):
    """What carries the messages of one step."""

    def send(self, wire: Wire, micro: int, value: PyTree) -> None: ...

    def take(self, wire: Wire, micro: int) -> PyTree: ...


class Memory:
    """The memory of one micro-batch: its own things, before those that all share."""

    def __init__(self, common: dict, own: dict, shared: frozenset[Name]):
        self.common, self.own, self.shared = common, own, shared

    def __getitem__(self, name: Any) -> Any:
        return self.own[name] if name in self.own else self.common[name]

    def __setitem__(self, name: Any, value: Any) -> None:
        (self.common if name in self.shared else self.own)[name] = value

    def __delitem__(self, name: Any) -> None:
        self.own.pop(name, None)


class PartyPrograms:
    """One party's turns of a walk.

    Attributes:
        whole: as the walk has them.
        turns: as they are compiled, each to one program or two.
        programs_of: which of these each turn is, by its place among the `count` turns of all parties.
        incoming: the wires that each waits for.
        sends: whether others wait for it.
        shared: what outlasts a micro-batch and is written by some turn; changing: that part of it which `look` found not empty.
    """

    def __init__(
        self,
        party: str,
        ops: Sequence,
        keep: Iterable,
        donate: Sequence[str] = ("optimizer", "params"),
    ):
        walk = CompiledWalk(ops, keep, donate=donate)
        mine = [i for i, program in enumerate(walk.programs) if program.party == party]
        self.whole: list[Turn] = [turn for turn in walk.turns if turn.party == party]
        self.turns: list[Op] = [walk.programs[i] for i in mine]
        numbers = iter(range(len(self.turns)))
        self.programs_of = {
            i: [next(numbers) for _ in programs(t)]
            for i, t in enumerate(walk.turns)
            if t.party == party
        }
        self.count = len(walk.turns)
        self.used = [_used(turn, p) for turn in self.whole for p in programs(turn)]
        self.functions = [walk.functions[i] for i in mine]
        self.spent = [walk.spent[i] for i in mine]
        first = {
            r: t
            for t, turn in reversed([*enumerate(self.turns)])
            for r in turn.reads
            if isinstance(r, Wire)
        }
        self.incoming = [
            [wire for wire, at in first.items() if at == t]
            for t in range(len(self.turns))
        ]
        self.sends = [
            any(isinstance(w, Wire) for w in turn.writes) for turn in self.turns
        ]
        lasts = {
            w
            for t in self.turns
            for w in t.writes
            if isinstance(w, Name) and (w.kind in PERSISTENT or SUM in w.kind)
        }
        self.shared = frozenset(lasts)
        self.look({})

    def look(self, memory: Mapping) -> None:
        """Leave out of what turns change whatever is empty, as the statistics of a segment that has none."""
        self.changing = frozenset(
            n for n in self.shared if n not in memory or jax.tree.leaves(memory[n])
        )
        self.touch = [
            (self.changing & {*reads, *t.writes}, self.changing & {*t.writes})
            for reads, t in zip(self.used, self.turns, strict=True)
        ]

    def run(self, memory: Any, at: Carrier, micro: int) -> None:
        for t in range(len(self.turns)):
            self.turn(t, memory, at, micro)

    def turn(self, t: int, memory: Any, at: Carrier, micro: int) -> None:
        turn = self.turns[t]
        for wire in self.incoming[t]:
            memory[wire] = at.take(wire, micro)
        results = self.functions[t](*[memory[r] for r in turn.reads])
        for r in self.spent[t]:
            del memory[r]
        for name, result in zip(turn.writes, results, strict=True):
            if isinstance(name, Wire):
                at.send(name, micro, result)
            else:
                memory[name] = result

    def leading(self, changed: Set[Name]) -> int:
        """How many turns come before all that wait for a message or touch what is `changed`."""
        bound = (
            t
            for t, turn in enumerate(self.turns)
            if self.incoming[t] or changed & {*self.used[t], *turn.writes}
        )
        return next(bound, len(self.turns))

    def ready(self, waiting: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Which of the turns that are left may run now, as far as their memory goes, oldest first."""
        found = []
        for i, (m, t) in enumerate(waiting):
            if not any(k == m or u == t or self.conflict(u, t) for k, u in waiting[:i]):
                found.append((m, t))
        return found

    def conflict(self, u: int, t: int) -> bool:
        """Whether one of two turns changes what the other touches."""
        (touch_u, write_u), (touch_t, write_t) = self.touch[u], self.touch[t]
        return bool(write_u & touch_t or write_t & touch_u)


def _used(turn: Turn, program: Op) -> set[Name | Wire]:
    """What a program of a turn needs of what it reads: the first of two needs nothing that only the second does."""
    if program.label != "send":
        return {*program.reads}
    needed = {*program.writes}
    for op in reversed(turn.ops):
        if needed & {*op.writes}:
            needed |= {*op.reads}
    return needed & {*program.reads}
