"""The executor: turns of a walk as compiled programs, run in order against a store.

How a turn becomes compiled functions, and what carries messages, are
arguments. So one executor serves parties in one process, clients row by
row, and a party over a network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

import jax

from jsplit.core.base import Message, PyTree
from jsplit.jaxprs.compiling import jit
from jsplit.jaxprs.halves import split_early_late
from jsplit.training.crossing import message_of
from jsplit.training.kinds import PERSISTENT, Kind
from jsplit.training.meshes import Meshes, on_party_devices
from jsplit.training.program_names import named
from jsplit.training.walk import Address, Name, Turn, Wire


class Carrier(Protocol):
    """What carries messages while a walk runs."""

    def send(self, wire: Wire, value: PyTree, /) -> None:
        """Hand over what a program has sent."""
        ...

    def take(self, wire: Wire, /) -> PyTree:
        """What has been sent; waits for it if it must."""
        ...


class StoreLike(Protocol):
    """A store, or what behaves like one, as that of a micro-batch over what all share."""

    def __getitem__(self, address: Address, /) -> PyTree: ...

    def __setitem__(self, address: Address, value: PyTree, /) -> None: ...

    def __delitem__(self, address: Address, /) -> None: ...


class InProcess:
    """Messages between parties of one process: what one sends, the other takes."""

    def __init__(self) -> None:
        under_way: dict[Wire, PyTree] = {}
        # Methods of the dictionary itself: no Python runs for a
        # message.
        self.send = under_way.__setitem__
        self.take = under_way.pop


class Recorder:
    """Messages between parties of one process, each recorded as it is sent.

    Args:
        known: records by wire and shapes, worked out once and shared by
            all steps.
    """

    # A record is a function of wire, shapes and dtypes, and these
    # seldom change.
    def __init__(self, known: dict[tuple, Message]):
        self.known = known
        self.messages: list[Message] = []
        self.under_way: dict[Wire, PyTree] = {}
        self.take = self.under_way.pop

    def send(self, wire: Wire, value: PyTree, /) -> None:
        """Keep what is sent for its receiver, and its record in the order of sending."""
        self.under_way[wire] = value
        at = (wire, *[(x.shape, x.dtype) for x in jax.tree.leaves(value)])
        if at not in self.known:
            self.known[at] = message_of(wire, value)
        self.messages.append(self.known[at])


class Piece(NamedTuple):
    """A turn, or a part of it that is compiled as one function.

    Attributes:
        reads: what `run` is given.
        writes: where its results lie.
        needs: that part of `reads` on which the results depend.
        run: the function.
    """

    reads: tuple[Address, ...]
    writes: tuple[Address, ...]
    needs: frozenset[Address]
    run: Callable[..., Sequence]


class Program(NamedTuple):
    """One compiled function of a walk, and all that the executor does around it.

    Attributes:
        turn: the place of its turn among those of all parties.
        party: where it runs.
        reads: what `function` is given.
        writes: where its results lie, or which messages they are.
        needs: that part of `reads` on which the results depend.
        function: compiled.
        waits_for: messages that it is the first to read.
        dead_after: what nobody reads after it.
    """

    turn: int
    party: str
    reads: tuple[Address, ...]
    writes: tuple[Address, ...]
    needs: frozenset[Address]
    function: Callable[..., Sequence]
    waits_for: tuple[Wire, ...]
    dead_after: tuple[Address, ...]


Compiler = Callable[[int, Turn], Sequence[Piece]]
"""From a turn, and its place in the walk, to compiled pieces that together are the turn."""


class CompiledWalk:
    """The turns of a walk as compiled programs.

    Args:
        turns: what each party does between messages, in an order in
            which they can run.
        keep: what must be left at the end.
        compiler: how a turn is compiled; by default as `jitted` does.

    Attributes:
        turns: as given.
        programs: those of all turns, in order.
    """

    def __init__(
        self,
        turns: Sequence[Turn],
        keep: Iterable[Address],
        compiler: Compiler | None = None,
    ):
        self.turns = list(turns)
        compiler = jitted() if compiler is None else compiler
        pieces: list[tuple[int, str, Piece]] = []
        for i, turn in enumerate(self.turns):
            _check_own(turn)
            pieces += [(i, turn.party, piece) for piece in compiler(i, turn)]

        # Nothing can be dropped before all is known: the last program
        # that reads a name may belong to a turn much later.
        keep, seen = set(keep), set()
        last = {r: k for k, (_, _, piece) in enumerate(pieces) for r in piece.reads}
        self.programs: list[Program] = []
        for k, (i, party, (reads, writes, needs, run)) in enumerate(pieces):
            # The two programs of a turn read the same messages; the
            # first takes them.
            new = [r for r in dict.fromkeys(reads) if r not in seen]
            seen.update(new)
            waits_for = tuple(r for r in new if isinstance(r, Wire))
            dead = tuple(
                r
                for r in dict.fromkeys(reads)
                if last[r] == k and r not in keep and r.kind not in PERSISTENT
            )
            self.programs.append(
                Program(i, party, reads, writes, needs, run, waits_for, dead)
            )

    def __call__(self, store: StoreLike, carrier: Carrier) -> None:
        """Run all programs in order: the store holds what they read, and then what they leave."""
        for program in self.programs:
            run_program(program, store, carrier)


def run_program(program: Program, store: StoreLike, carrier: Carrier) -> None:
    """Run one program on what lies in a store and what has been sent."""
    # Hot: one frame of Python for a program, whatever carries its
    # messages.
    for wire in program.waits_for:
        store[wire] = carrier.take(wire)
    results = program.function(*[store[r] for r in program.reads])

    # Before new things are stored: the turn may write anew what was
    # last read here.
    for address in program.dead_after:
        del store[address]
    for address, result in zip(program.writes, results, strict=True):
        if isinstance(address, Wire):
            carrier.send(address, result)
        else:
            store[address] = result


def _check_own(turn: Turn) -> None:
    """A turn touches nothing but what is its party's, what it is sent, and what it sends."""
    for r in turn.reads:
        owner = r.receiver if isinstance(r, Wire) else r.party
        assert owner == turn.party, f"a turn of `{turn.party}` reads {r}"
    for w in turn.writes:
        owner = w.sender if isinstance(w, Wire) else w.party
        assert owner == turn.party, f"a turn of `{turn.party}` writes {w}"


def jitted(
    donate: Collection[Kind] = (),
    meshes: Meshes | None = None,
    kernels: str = "fast",
) -> Compiler:
    """Compile every turn, in two programs where others wait for what it sends.

    Args:
        donate: buffers of these kinds are donated by the program that
            replaces them.
        meshes: by party, the devices that it computes on.
        kernels: how operations are computed, as for `jsplit.fused`.
    """

    def compiler(number: int, turn: Turn) -> list[Piece]:
        made, done = [], set[str]()
        for piece in send_first(turn):
            # Only what comes back in the same place: XLA writes the new
            # over the old.
            donated = tuple(
                k
                for k, r in enumerate(piece.reads)
                if r.kind in donate and r in piece.writes
            )
            run = named(turn, piece.run, piece.writes, done)
            function = jit(run, kernels, donate_argnums=donated)
            function = on_party_devices(function, turn.party, piece.reads, meshes)
            made.append(piece._replace(run=function))
        return made

    return compiler


def whole(turn: Turn, run: Callable[..., Sequence]) -> list[Piece]:
    """A turn as one piece, which `run` computes."""
    return [Piece(turn.reads, turn.writes, frozenset(turn.reads), run)]


def send_first(turn: Turn) -> list[Piece]:
    """A turn in two pieces if it sends something and computes gradients of its parameters.

    The first gives all that can be had without these gradients. The
    second gives the gradients, and whatever the turn reads and
    replaces: parameters, statistics, memories. Nobody waits for the
    second, and each needs less memory than one program for both.
    """
    sends = any(isinstance(w, Wire) for w in turn.writes)
    learns = any(_is_gradient(w) for op in turn.ops for w in op.writes)
    if not sends or not learns:
        return whole(turn, turn.run)

    # What is replaced comes in the second: both read the turn's inputs
    # as they were.
    early = [not _is_late(w) and w not in turn.reads for w in turn.writes]
    sent = tuple(w for w, e in zip(turn.writes, early, strict=True) if e)
    learned = tuple(w for w, e in zip(turn.writes, early, strict=True) if not e)
    first, second = split_early_late(turn.run, early)
    halfway = Name(turn.party, Kind.HALFWAY)
    reads = (halfway, *turn.reads)
    return [
        Piece(turn.reads, (halfway, *sent), _needed(turn, sent), first),
        Piece(reads, learned, frozenset(reads), second),
    ]


def _is_gradient(address: Address) -> bool:
    """Whether a backward pass computes it; a sum over micro-batches only adds it up."""
    return (
        isinstance(address, Name) and address.kind == Kind.GRAD and not address.summed
    )


def _is_late(address: Address) -> bool:
    """Whether it is a gradient, or made of gradients for the party's own later use."""
    return _is_gradient(address) or address.kind in (
        Kind.FINITE,
        Kind.SCALARS,
        Kind.NUMBERS,
        Kind.PROPOSED_PARAMS,
        Kind.PROPOSED_OPTIMIZER,
    )


def _needed(turn: Turn, results: Iterable[Address]) -> frozenset[Address]:
    """What some results of a turn depend on, of what it reads."""
    needed = {*results}
    # From the end back, each operation once: those after it have said
    # what they need.
    for op in reversed(turn.ops):
        if needed & {*op.writes}:
            needed |= {*op.reads}
    return frozenset(needed & {*turn.reads})
