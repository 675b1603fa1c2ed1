"""A walk: operations at parties, each reads and writes names of its own party and what is sent to it.

An interpreter runs a walk whole, or in turns: the longest runs of work that a party can do before it must wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jsplit.core.base import PyTree


class Name(NamedTuple):
    """Where something lies: in the memory of `party`, as the `kind` of thing `what`."""

    party: str
    kind: str
    what: str = ""


class Wire(NamedTuple):
    """A message under way: the `kind` ("activation", "cotangent") of the value `what`."""

    kind: str
    what: str
    sender: str
    receiver: str

    @property
    def label(self) -> str:
        return f"{self.kind} {self.what} to {self.receiver}"


class Op(NamedTuple):
    """`run(*reads) -> writes`, a pure function, at one party."""

    party: str
    label: str
    reads: tuple[Name | Wire, ...]
    writes: tuple[Name | Wire, ...]
    run: Callable[..., tuple]


def execute(ops: Iterable[Op], env: dict) -> None:
    """Run operations in order, in a memory that holds what the first of them read."""
    for op in ops:
        env.update(zip(op.writes, op.run(*[env[r] for r in op.reads]), strict=True))


class Turn(NamedTuple):
    """What one party does between two messages: one function from `reads` to `writes`."""

    party: str
    ops: tuple[Op, ...]
    reads: tuple[Name | Wire, ...]
    writes: tuple[Name | Wire, ...]

    def run(self, *values: PyTree) -> tuple:
        env = dict(zip(self.reads, values, strict=True))
        execute(self.ops, env)
        return tuple(env[w] for w in self.writes)


def turns(ops: Sequence[Op], keep: Iterable[Name | Wire]) -> list[Turn]:
    """Cut a walk into turns, each as long as it can be; `keep` is what must be left at the end.

    An operation waits for every earlier one that writes what it reads, or touches what it writes."""
    before: list[set[int]] = []
    for j, op in enumerate(ops):
        before.append(
            {
                i
                for i, o in enumerate(ops[:j])
                if {*o.writes} & {*op.reads, *op.writes} or {*o.reads} & {*op.writes}
            }
        )
    done: set[int] = set()
    groups: list[list[int]] = []
    while len(done) < len(ops):
        first = next(j for j in range(len(ops)) if j not in done and before[j] <= done)
        group: list[int] = []
        for j in range(first, len(ops)):
            if j not in done and ops[j].party == ops[first].party and before[j] <= done:
                group.append(j)
                done.add(j)
        groups.append(group)
    made: list[Turn] = []
    later = set(keep)
    for group in reversed(groups):
        own = tuple(ops[j] for j in group)
        written = dict.fromkeys(w for op in own for w in op.writes)
        reads: dict = {}
        seen: set = set()
        for op in own:
            reads.update(dict.fromkeys(r for r in op.reads if r not in seen))
            seen.update(op.writes)
        made.append(
            Turn(
                own[0].party, own, tuple(reads), tuple(w for w in written if w in later)
            )
        )
        later = (later - written.keys()) | reads.keys()
    return made[::-1]
