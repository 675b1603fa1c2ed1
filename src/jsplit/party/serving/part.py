"""What one party computes of a call, and the shapes of all that crosses in it.

The operations are those of `jsplit.session`, this party's alone; what no node reads goes
to whoever has asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np

from jsplit.core.base import Link, PartyState, PyTree, TrainState
from jsplit.core.recent import Recent
from jsplit.core.trees import abstract
from jsplit.party.compute.own_config import own_config
from jsplit.party.contract import schema
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.placeholders import Own
from jsplit.party.contract.unread import unread_of, whole
from jsplit.party.serving.words import Model, run_of, stamp_of
from jsplit.party.task import INFERENCE
from jsplit.topology.graph import Topology
from jsplit.training.cached_walk import call_walk
from jsplit.training.crossing import Packet, packet
from jsplit.training.executor import Program
from jsplit.training.kinds import Kind, WireKind
from jsplit.training.sessions import compiled
from jsplit.training.store import layout_of, load
from jsplit.training.unscaled import seen
from jsplit.training.walk import Address, Name, Store, Turn, Wire, execute

KEPT = 64
"""Sizes of calls of which programs are kept: whoever asks chooses sizes, and a program of
each would fill the memory of who serves."""


class Part:
    """One party's part of every call of one kind.

    Args:
        agreed: what the parties have agreed on.
        party: whose part this is.
        own: its segments.
        links: links of its own, by the names that the agreement gives them.
        state: what it has learned.
        model: its step and hash, as they are known of it.
        asker: the role that asks, to which outputs go.
        sequence: whether calls are pieces of a sequence, by caches; else each is of
            records of its own.

    Attributes:
        role: what the party plays in the topology.
        wires: all that crosses; a frame names its wire by the place here.
        needed: the fields that this party's segments read.
        outputs: by node, the shapes of outputs in words, as far as they are known.
        proved: whether caches were found to give what segments give without them.
        alone: whether its programs are of one session each, and of no several.
        inputs: by size of a session, the shapes of which caches are made.
        apart: what noise is drawn of beside what comes.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        own: Own,
        links: Mapping[str, Link] | None,
        state: PartyState,
        model: Model,
        asker: str,
        *,
        sequence: bool,
    ):
        self.agreed, self.party, self.state = agreed, party, state
        self.role, self.asker, self.sequence = agreed.turns.role[party], asker, sequence
        topology = agreed.topology(self.role, own)
        config = own_config(
            agreed, topology, self.role, INFERENCE, links, "residuals", "fast"
        )
        if not sequence:
            config = config._replace(topology=_without_caches(topology))
        self.config = config._replace(microbatches=1)
        self.topology = self.config.topology
        self.nodes = tuple(n for n in topology.segments if n.party == self.role)
        self.cached = any(n.segment.cache is not None for n in self.nodes)
        self.layout = {self.role: layout_of(self.config)[self.role]}
        # Whoever brings a state of another part hears of it now.
        self.base = load(self.layout, TrainState({self.role: state}))
        self.needed = sorted(
            {i for n in self.nodes for i in n.reads} & {*topology.fields}
        )
        walk = call_walk(self.config, asker)
        self.ops = [op for op in walk.ops if op.party == self.role]
        written = [w for op in walk.ops for w in op.writes]
        self.wires = tuple(dict.fromkeys(w for w in written if isinstance(w, Wire)))
        self._unread = unread_of(agreed)
        self._programs: Recent[list[Program]] = Recent(KEPT)
        self.inputs: Recent[dict[str, tuple[PyTree, ...]]] = Recent(KEPT)
        # One each for a call: what is drawn in secret is of one session's own words, and
        # of keys that are mapped some kinds draw other numbers.
        self.alone = self.layout[self.role].secret is not None
        # The same values as another model's, or through another link, get other noise:
        # of two answers with one noise the difference would have none.
        self.apart = b""
        if self.alone:
            self.apart = run_of(agreed) + stamp_of(model).tobytes()
        self.outputs: dict[str, schema.Words] = {}
        self.proved = False
        self.like = lru_cache(maxsize=256)(self._like)

    def programs(
        self, batch: int, positions: int, length: int, *, checked: bool
    ) -> list[Program]:
        """The party's programs of a call of one size, those used last kept compiled.

        Args:
            batch: how many records or sequences.
            positions: of a sequence, how many; 0 where there are none.
            length: of its caches.
            checked: whether caches are compared with segments without them.
        """

        def make() -> list[Program]:
            walk = call_walk(self.config, self.asker, checked=checked)
            programs = compiled(walk, self.config.kernels).programs
            return [p for p in programs if p.party == self.role]

        return self._programs.of((batch, positions, length, checked), make)

    def turns(self) -> list[Turn]:
        """What those that check nothing compute, each a turn."""
        turns = call_walk(self.config, self.asker).turns()
        return [t for t in turns if t.party == self.role]

    def sent_values(self, batch: int, positions: int) -> Store:
        """Shapes of all that this party is sent in a call, as its programs read it."""
        found: Store = {}
        for place, wire in enumerate(self.wires):
            # What goes to the asker alone is read by none of its segments.
            known = wire.what in self.agreed.values or wire.what in self.outputs
            if wire.receiver == self.role and known:
                payload, value = self.like(place, batch, positions)
                found[wire] = packet(self.config, wire, payload, value)
        return found

    def _like(self, place: int, batch: int, positions: int) -> tuple[PyTree, PyTree]:
        """Shapes of a message's payload, and of its whole value.

        Args:
            place: of the wire.
            batch: how many records or sequences.
            positions: of a sequence, how many; 0 where there are none.

        Raises:
            ValueError: if nothing is known of the value.
        """
        at = self.wires[place]
        if at.what in self.agreed.values:
            part, entire = self.agreed.value(at, batch), whole(self.agreed, at, batch)
        elif at.what in self.outputs:
            part = entire = schema.read(self.outputs[at.what], batch)
        else:
            raise ValueError(f"nothing is known of the shapes of `{at.what}`.")
        if self.sequence:
            part, entire = (_of_length(x, positions) for x in (part, entire))
        link = self.config.links.get((at.kind, at.what))
        return schema.encoded(link, seen(self.config, at, part)), entire

    def payload_of(self, place: int, value: PyTree, batch: int, positions: int) -> list:
        """The arrays of what a program sends.

        Raises:
            ValueError: if they are not as agreed, or not finite where that is refused.
        """
        at = self.wires[place]
        payload = value.payload if isinstance(value, Packet) else value
        arrays = [np.asarray(x) for x in jax.tree.leaves(payload)]
        if at.what in self.agreed.values:
            wanted, _ = self.like(place, batch, positions)
            if abstract(payload) != wanted:
                shapes = ", ".join(f"{x.dtype}{list(x.shape)}" for x in arrays)
                there = schema.arrays(wanted)
                said = ", ".join(f"{dtype}{list(shape)}" for dtype, shape in there)
                raise ValueError(
                    f"{at.kind} `{at.what}` is {shapes}, the agreement says {said}."
                )
        if self.agreed.nonfinite == "refuse":
            for x in arrays:
                if x.dtype.kind not in "biu" and not np.isfinite(x).all():
                    raise ValueError(
                        f"{at.kind} `{at.what}` is not finite where it is computed."
                    )
        return arrays

    def received(
        self, place: int, arrays: Sequence[np.ndarray], batch: int, positions: int
    ) -> PyTree:
        """What a program reads of the arrays that came."""
        at = self.wires[place]
        payload, value = self.like(place, batch, positions)
        found = jax.tree.unflatten(jax.tree.structure(payload), arrays)
        if (at.kind, at.what) in self.config.links or at in self._unread:
            return packet(self.config, at, found, value)
        return found

    def own_outputs(self, fields: Mapping[str, PyTree]) -> dict[str, schema.Words]:
        """Shapes in words of what this party computes and only the asker gets.

        Args:
            fields: this party's, for their shapes.
        """
        sinks = [n for n in self.topology.sinks if self._is_own_sink(n)]
        if not sinks:
            return {}
        # Of records, and not of positions: the lengths that were agreed on are known
        # to run.
        plain = self.config._replace(topology=_without_caches(self.topology))
        ops = [op for op in call_walk(plain, self.asker).ops if op.party == self.role]
        at = self.layout[self.role]

        def shapes(batch: int) -> dict[str, PyTree]:
            held: dict[Address, PyTree] = dict(abstract(self.base))
            held[at.weight] = None
            if at.secret is not None:
                held[at.noise] = jax.ShapeDtypeStruct((4,), "uint32")
            for f, x in fields.items():
                held[at.fields[f]] = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(
                        (batch, *leaf.shape[1:]), leaf.dtype
                    ),
                    x,
                )
            for wire in self.wires:
                if wire.receiver == self.role and wire.what in self.agreed.values:
                    entire = whole(self.agreed, wire, batch)
                    part = self.agreed.value(wire, batch)
                    link = self.config.links.get((wire.kind, wire.what))
                    sent = schema.encoded(link, seen(self.config, wire, part))
                    held[wire] = packet(self.config, wire, sent, entire)

            def run(held: dict[Address, PyTree]) -> dict[str, PyTree]:
                held = dict(held)
                execute(ops, held)
                return {n: held[Name(self.role, Kind.VALUE, n)] for n in sinks}

            return jax.eval_shape(run, held)

        small, large = shapes(self.agreed.batch), shapes(2 * self.agreed.batch)
        found = {}
        for name in sinks:
            found[name] = schema.write(
                small[name], large[name], self.agreed.batch, name
            )
        return found

    def _is_own_sink(self, name: str) -> bool:
        own = self.topology.node[name].party == self.role
        wire = Wire(WireKind.ACTIVATION, name, self.role, self.asker)
        return own and wire in self.wires and name not in self.agreed.values


def _without_caches(topology: Topology) -> Topology:
    nodes = [
        replace(n, segment=replace(n.segment, cache=None)) for n in topology.segments
    ]
    return replace(topology, nodes=[*nodes, *topology.losses, *topology.metrics])


def _of_length(value: PyTree, positions: int) -> PyTree:
    """Shapes of so many positions: axis 1 of every array."""

    def resized(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (x.shape[0], positions, *x.shape[2:]) if len(x.shape) > 1 else x.shape
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return jax.tree.map(resized, value)
