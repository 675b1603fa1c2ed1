"""Turns of a walk, compiled and run in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax

from jsplit.core.base import Message, PyTree
from jsplit.jaxprs.halves import split_early_late
from jsplit.training.memory import Memories
from jsplit.training.meshes import Meshes, on_party_devices
from jsplit.training.step import message_of
from jsplit.training.walk import Name, Op, Turn, Wire, turns

PERSISTENT = ("params", "state", "optimizer", "link", "key", "step")


class CompiledWalk:
    """The turns of a walk, each jitted as one program or two, run in order against the memories of the parties.

    What a program replaces of the kinds `donate` is given up for the new."""

    def __init__(
        self,
        ops: Sequence[Op],
        keep: Iterable[Name | Wire],
        meshes: Meshes | None = None,
        donate: Sequence[str] = ("optimizer", "params"),
    ):
        keep = set(keep)
        self.turns = turns(ops, keep)
        self.programs = [program for turn in self.turns for program in programs(turn)]
        last = {r: i for i, program in enumerate(self.programs) for r in program.reads}
        self.records: dict[tuple, Message] = {}
        self.functions: list[Callable[..., tuple]] = []
        self.spent: list[list] = []
        for i, (party, _, reads, writes, run) in enumerate(self.programs):
            donated = tuple(
                k for k, r in enumerate(reads) if r.kind in donate and r in writes
            )
            self.functions.append(
                on_party_devices(
                    jax.jit(run, donate_argnums=donated), party, reads, meshes
                )
            )
            self.spent.append(
                [
                    r
                    for r in reads
                    if last[r] == i and r not in keep and r.kind not in PERSISTENT
                ]
            )

    def __call__(self, memories: Memories) -> list[Message]:
        sent: list[Message] = []
        for program, function, spent in zip(
            self.programs, self.functions, self.spent, strict=True
        ):
            own = memories[program.party]
            results = function(*[own[r] for r in program.reads])
            for r in spent:
                del own[r]
            for name, result in zip(program.writes, results, strict=True):
                if isinstance(name, Wire):
                    memories[name.receiver][name] = result
                    sent.append(self.record(name, result))
                else:
                    own[name] = result
        return sent

    def record(self, wire: Wire, sent: PyTree) -> Message:
        """What the message is, worked out once for each shape of what is sent."""
        at = (wire, *[(x.shape, x.dtype) for x in jax.tree.leaves(sent)])
        if at not in self.records:
            self.records[at] = message_of(wire, sent)
        return self.records[at]


def programs(turn: Turn) -> list[Op]:
    """A turn as it is compiled: what it sends does not wait for what its party learns.

    A turn that sends and computes gradients of its parameters too is two programs: all that can be had without these
    gradients, and then the gradients and whatever the turn reads and replaces: parameters, statistics, memories. Nobody
    waits for the second, and each needs less memory than one program for both."""
    sends = any(isinstance(w, Wire) for w in turn.writes)
    if not sends or not any(w.kind == "grad" for op in turn.ops for w in op.writes):
        return [Op(turn.party, "turn", turn.reads, turn.writes, turn.run)]
    early = [w.kind != "grad" and w not in turn.reads for w in turn.writes]
    at_once, later = (
        tuple(w for w, e in zip(turn.writes, early, strict=True) if e == which)
        for which in (True, False)
    )
    first, second = split_early_late(turn.run, early)
    halfway = Name(turn.party, "halfway")
    return [
        Op(turn.party, "send", turn.reads, (halfway, *at_once), first),
        Op(turn.party, "learn", (halfway, *turn.reads), later, second),
    ]
