"""One session at one party: its caches, and the call that is under way.

It runs its programs as far as what has come lets it, and asks nobody for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import sha256

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.secret_keys import fresh_words
from jsplit.party.serving.lanes import Lanes
from jsplit.party.serving.part import Part
from jsplit.training.cached_walk import cache_inputs, first_caches
from jsplit.training.call_checks import check_first, check_same
from jsplit.training.executor import Program, run_program
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name, Store, Wire

Post = Callable[[int, Sequence[np.ndarray]], object]
"""`post(place, arrays)`: sends the arrays of a wire."""


class Course:
    """A session at one party.

    Args:
        part: its programs.
        batch: how many sequences; of records, the most of a call.
        length: the most positions of a sequence; 0 for records.

    Attributes:
        position: how many positions have been computed.
        call: the number of the call that comes, or is under way.
    """

    def __init__(self, part: Part, batch: int, length: int):
        self.part, self.batch, self.length = part, batch, length
        self.position, self.call = 0, 0
        self._store: Store = dict(part.base)
        self._inbox: dict[int, Sequence[np.ndarray]] = {}
        self._todo: list[Program] = []
        self._count, self._begun, self._checks = 0, False, False
        self._heard, self._words = sha256(part.apart), None
        self._seat: tuple[Lanes, int] | None = None

    def begin(self, fields: Mapping[str, PyTree]) -> None:
        """Make the caches.

        Args:
            fields: this party's, for their shapes beyond batch and positions.
        """
        if not self.part.cached or not self.part.sequence or self._begun:
            return
        size, part = (self.batch, self.length), self.part
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*size, *x.shape[2:]), x.dtype),
            dict(fields),
        )
        states = {part.role: part.state}

        def inputs() -> dict[str, tuple[PyTree, ...]]:
            sent = part.sent_values(*size)
            self._put(shapes)
            return cache_inputs(part.nodes, states, part.ops, {**self._store, **sent})

        leaves, structure = jax.tree.flatten(shapes)
        own = tuple((x.shape, x.dtype) for x in leaves)
        found = part.inputs.of((size, structure, own), inputs)
        self._store.update(first_caches(part.nodes, states, found))
        self._begun = True

    def sizes(self, count: int) -> tuple[int, int]:
        """Batch and positions of a call of so many positions, or records."""
        return (self.batch, count) if self.part.sequence else (count, 0)

    def start(
        self,
        count: int,
        fields: Mapping[str, PyTree],
        words: np.ndarray | None = None,
    ) -> None:
        """Begin the next call.

        Args:
            count: of its positions, or records.
            fields: this party's part of it.
            words: what tells it from other calls where noise is drawn, uint32 [4]; of
                a call that is made again the same. By default of all that has come.

        Raises:
            ValueError: if it is too long, or from it nothing can be seen of caches.
        """
        part = self.part
        if part.sequence and self.position + count > self.length:
            raise ValueError(
                f"`length` of the session is {self.length} positions, and "
                f"{self.position} and {count} more are too many."
            )
        self._checks = part.sequence and self.position == 0 and not part.proved
        if self._checks:
            check_first(part.nodes, count)
        self.begin(fields)
        self._put(fields)
        self._words = words
        if not part.sequence:
            self._heard = sha256(part.apart)
        self._hear([*jax.tree.leaves(dict(fields))])
        self._count = count
        sizes = self.sizes(count)
        programs = part.programs(*sizes, self.length, checked=self._checks)
        self._todo = [*programs]

    @property
    def under_way(self) -> bool:
        """Whether a call is under way."""
        return bool(self._todo)

    @property
    def count(self) -> int:
        """How many positions, or records, the call under way has."""
        return self._count

    def arrive(self, place: int, arrays: Sequence[np.ndarray]) -> bool:
        """Take what came on a wire; gives whether it is new."""
        return self._inbox.setdefault(place, arrays) is arrays

    @property
    def due(self) -> bool:
        """Whether all is there that the next program waits for."""
        return bool(self._todo) and all(
            self.part.wires.index(w) in self._inbox for w in self._todo[0].waits_for
        )

    @property
    def kin(self) -> Hashable:
        """What sessions have in common whose next programs can be one; `None`: alone."""
        part = self.part
        # Of prompts each length would be another program, for each number of sessions.
        usual = self._count == 1 or (not part.sequence and self._count == self.batch)
        if part.alone or self._checks or not usual:
            return None
        return part, self.batch, self.length, self._count, self.place

    def advance(self, post: Post) -> bool:
        """Run what can be run; gives whether the call is done."""
        part = self.part
        carrier = _Carrier(self, post)
        while self.due:
            self.settle()
            waits = [part.wires.index(w) for w in self._todo[0].waits_for]
            for place in sorted(waits):
                self._hear(self._inbox[place])
            self._draw()
            run_program(self._todo.pop(0), self._store, carrier)
        return self._over()

    def given(self, lanes: Lanes) -> list[PyTree]:
        """What the next program reads beside caches and what all sessions share."""
        came = {w: self._received(w) for w in self._todo[0].waits_for}
        own = [r for r in self._todo[0].reads if r.kind is not Kind.CACHE]
        held = {**self._store, **came}
        return [held[r] for r in own if r not in lanes.base]

    @property
    def place(self) -> int:
        """The next program, by its place among those of the call, from the last back."""
        return -len(self._todo)

    def lane(self, lanes: Lanes) -> int:
        """The session's lane, in which its caches lie from now on."""
        if self._seat is None or self._seat[0] is not lanes:
            self.settle()
            caches = self.caches()
            self._seat = lanes, lanes.enter(self, caches)
            for name in caches:
                del self._store[name]
        lanes.check(self, self._seat[1])
        return self._seat[1]

    def caches(self) -> Store:
        """The caches, or of a session in a lane their shapes."""
        if self._seat is not None:
            return self._seat[0].shapes()
        return {r: x for r, x in self._store.items() if r.kind is Kind.CACHE}

    def computed(self, results: Sequence[PyTree], post: Post) -> bool:
        """Take what a run of several sessions gave; gives whether the call is done."""
        program = self._todo.pop(0)
        for wire in program.waits_for:
            self._store[wire] = self.take(wire)
        for address in program.dead_after:
            del self._store[address]
        carrier = _Carrier(self, post)
        for address, result in zip(program.writes, results, strict=True):
            if isinstance(address, Wire):
                carrier.send(address, result)
            elif address.kind is not Kind.CACHE:
                self._store[address] = result
        return self._over()

    def settle(self) -> None:
        """Bring the caches back out of a lane: alone they are written where they lie."""
        if self._seat is not None:
            lanes, lane = self._seat
            self._store.update(lanes.leave(self, lane))
            self._seat = None

    def _over(self) -> bool:
        """End the call if all of it is computed."""
        if self._todo:
            return False
        if self._checks:
            check_same(self.part.nodes, self._store)
            self.part.proved = self._count > 1
        self._inbox.clear()
        self.position += self._count if self.part.sequence else 0
        self.call += 1
        return True

    def take(self, wire: Wire) -> PyTree:
        """What a program reads of a wire."""
        value = self._received(wire)
        del self._inbox[self.part.wires.index(wire)]
        return value

    def _received(self, wire: Wire) -> PyTree:
        place = self.part.wires.index(wire)
        arrays = self._inbox[place]
        return self.part.received(place, arrays, *self.sizes(self._count))

    def payload(self, place: int, value: PyTree) -> list:
        """The arrays of what a program sends."""
        return self.part.payload_of(place, value, *self.sizes(self._count))

    def output(self, node: str) -> PyTree:
        """An output of the call that is done, at the asker."""
        return self._store.pop(Name(self.part.role, Kind.VALUE, node))

    def let_go(self) -> None:
        """Let go of all arrays; what was due in the call under way is known still."""
        self._store.clear()
        self._inbox.clear()
        self._todo, self._seat = [], None

    def _hear(self, arrays: Sequence[np.ndarray]) -> None:
        """Note what a program is given, where noise is drawn by it."""
        if self.part.layout[self.part.role].secret is not None:
            for x in map(np.asarray, arrays):
                self._heard.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())

    def _draw(self) -> None:
        """Say of what noise is drawn, together with this party's secret key.

        Of the model, of what was agreed on and of what has come, and not anew each time:
        a receiver that loses its sessions is sent the same values again, and the mean of
        several noises would be less noise.
        """
        at = self.part.layout[self.part.role]
        if at.secret is not None:
            found = np.frombuffer(self._heard.digest()[:16], np.uint32)
            self._store[at.noise] = found if self._words is None else self._words

    def _put(self, fields: Mapping[str, PyTree]) -> None:
        at = self.part.layout[self.part.role]
        self._store[at.weight] = None
        if at.secret is not None:
            self._store[at.noise] = fresh_words()
        for f, x in fields.items():
            self._store[at.fields[f]] = x


class _Carrier:
    """The messages of a call, as the executor sends and takes them."""

    def __init__(self, of: Course, post: Post):
        self.of, self.post, self.take = of, post, of.take

    def send(self, wire: Wire, value: PyTree, /) -> None:
        """Send what a program gave."""
        place = self.of.part.wires.index(wire)
        self.post(place, self.of.payload(place, value))
