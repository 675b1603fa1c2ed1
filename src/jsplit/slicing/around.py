"""What must go with a cut, so that nothing is read around it: the fewest bytes.

Between what the side of the cut has (inputs, the weights that the cut reads, values of
the cuts before) and what the rest of the model reads, the cheapest values are looked for
that part both: a minimum cut of the graph of values. A raw input is never among them, nor
a value without batch axis; what depends on neither is computed on both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from jsplit.jaxprs.flat import Atom, Equation, shape_of
from jsplit.jaxprs.least_cut import Graph
from jsplit.jaxprs.same_values import same_values
from jsplit.jaxprs.slices import backward_slice
from jsplit.slicing.trace import Source, SourceKind, Traced

_LEAVES = (SourceKind.PARAMS, SourceKind.STATE)
_TIE = 1 << 40
"""What it costs that both sides read a weight: more than all that could be sent instead."""


class Around(NamedTuple):
    """What goes around a cut.

    Attributes:
        carried: the values that close it, in the order of the program.
        beyond: values that the other side computes from these, or from its own weights.
        after: values that are computed from the cut.
        own: the values of the cut.
        first: by variable, the first one with the same value, where it is another.
    """

    carried: list[Var]
    beyond: set[Var]
    after: set[Var]
    own: dict[Var, Var]
    first: dict[Var, Var]

    def of(self, v: Var) -> Var:
        """The first variable with a value."""
        return self.first.get(v, v)


def around(
    trace: Traced,
    name: str,
    public: Collection[str],
    avoided: Collection[Var] = frozenset(),
) -> Around | None:
    """Find what closes a cut.

    Args:
        trace: where; the cuts before it are closed.
        name: of the cut.
        public: inputs that anyone may read.
        avoided: values that may not cross.

    Returns:
        The values; `None` if none close it, as where a raw input is read on both sides.
    """
    return _Search(trace, name, public, avoided).found()


class _Search:
    """A trace, seen from one cut."""

    def __init__(
        self,
        trace: Traced,
        name: str,
        public: Collection[str],
        avoided: Collection[Var],
    ):
        self.trace, self.name, self.public = trace, name, public
        self.avoided = avoided
        others = {n: _variables(x.atoms) for n, x in trace.cuts.items() if n != name}
        self.others = others
        apart = {v for atoms in others.values() for v in atoms}
        first = same_values(trace.flat, apart)
        # As a variable before it got the name of the cut, it is the cut's value too.
        own = {first.get(v, v): v for v in _variables(trace.cuts[name].atoms)}
        self.parts = Around([], set(), self._after(first, own), own, first)
        self.stops = {
            v
            for atoms in others.values()
            for v in atoms
            if v not in self.parts.after and v not in own
        }
        # By statistic, what a call makes of it.
        self.updates: dict[Var, Var] = {}
        for v, source in trace.sources.items():
            u = trace.new_state[source.leaf] if source.kind == SourceKind.STATE else v
            if isinstance(u, Var) and u is not v:
                self.updates[v] = first.get(u, u)
        self.needed = self._needed()

    def _after(self, first: dict[Var, Var], own: dict[Var, Var]) -> set[Var]:
        """All values that are computed from the cut."""
        after: set[Var] = set()
        for e in self.trace.flat.equations:
            reads = (first.get(v, v) for v in e.reads)
            if any(v in own or v in after for v in reads):
                after.update({first.get(v, v) for v in e.writes} - own.keys())
        return after

    def ends(self) -> list[Var]:
        """What the rest of the model is there to compute."""
        after, of = self.parts.after, self.parts.of
        ends: list[Var] = []
        for name, value in self.trace.values.items():
            atoms = _variables(value.atoms) if name != self.name else []
            if any(of(v) in after for v in atoms):
                ends += atoms
        states = _variables(self.trace.new_state)
        return [*ends, *(v for v in states if of(v) in after)]

    def _needed(self) -> list[Equation]:
        """The equations that the rest of the model needs, up to the cuts before it."""
        of, own = self.parts.of, self.parts.own
        wanted = {of(v) for v in self.ends()}
        while True:
            found: list[Equation] = []
            for e in reversed(self.trace.flat.equations):
                writes = {of(v) for v in e.writes} - own.keys() - self.stops
                if writes & wanted:
                    found.append(e)
                    wanted.update(of(v) for v in e.reads)
            # Whoever reads a statistic updates it, as a cache of a mask.
            updates = {u for v, u in self.updates.items() if v in wanted} - wanted
            if not updates:
                return found[::-1]
            wanted |= updates

    def found(self) -> Around | None:
        parts, of = self.parts, self.parts.of
        graph = Graph()
        known = self._add_sources(graph)
        for e in self.needed:
            writes = {of(v) for v in e.writes} - parts.own.keys() - self.stops
            reads = [v for v in dict.fromkeys(of(v) for v in e.reads) if v in known]
            if writes & parts.after:
                for v in reads:
                    graph.sink(v)
                continue
            # In the order of the program, so that it is the same in each run.
            for v in dict.fromkeys(of(w) for w in e.writes) if reads else ():
                if v in writes:
                    graph.node(v, self._cost(v))
                    known[v] = None
                    self._connect(graph, v, reads)
        for v in (of(v) for v in self.ends()):
            if v in known:
                graph.sink(v)
        for v, u in self.updates.items():
            if v in known and u in known:
                graph.with_side(u, v)

        parted = graph.cut()
        if parted is None:
            return None
        cut, beyond = parted
        return parts._replace(
            # A weight among them does not cross: it is tied, and a topology says whether
            # the parties may have it so.
            carried=[v for v in known if v in cut and v not in self.trace.sources],
            beyond={v for v in known if v in beyond},
        )

    def _connect(self, graph: Graph, v: Var, reads: list[Var]) -> None:
        for r in reads:
            source = self.trace.sources.get(r)
            if source is not None and source.kind in _LEAVES:
                # A weight is at one party, with all that read it, if that can be.
                graph.with_side(v, r)
                graph.way(r, v)
            else:
                graph.way(r, v)

    def _add_sources(self, graph: Graph) -> dict[Var, None]:
        """Add inputs, weights, and the cuts before this one."""
        trace = self.trace
        atoms = trace.cuts[self.name].atoms
        read = backward_slice(trace.flat, atoms, trace.stops(self.name)).reads
        known: dict[Var, None] = {}
        elsewhere = self._elsewhere(read)
        for v, source in trace.sources.items():
            if source in elsewhere and source.kind == SourceKind.FIELD:
                continue
            field = source.kind == SourceKind.FIELD and source.name not in self.public
            if field or source.kind in _LEAVES:
                graph.node(v, None if field else _TIE)
                known[v] = None
                if field or v in read:
                    graph.source(v)
        for v in self._before():
            graph.node(v, self._cost(v))
            known[v] = None
            graph.source(v)
        return known

    def _elsewhere(self, read: set[Var]) -> set[Source]:
        """The inputs that only cuts beside this one read: its side does not have them."""
        trace, before = self.trace, set(self._before())
        found: set[Source] = set()
        for name, value in trace.cuts.items():
            atoms = _variables(value.atoms)
            beside = name != self.name and self.stops.issuperset(atoms)
            if beside and before.isdisjoint(atoms):
                piece = backward_slice(trace.flat, atoms, trace.stops(name))
                found |= {trace.sources[v] for v in piece.reads if v in trace.sources}
        return found - {trace.sources[v] for v in read if v in trace.sources}

    def _before(self) -> list[Var]:
        """The values of the cuts that this one is computed from, in order."""
        flat = self.trace.flat
        piece = backward_slice(flat, self.trace.cuts[self.name].atoms)
        reached = {v for e in piece.equations for v in (*e.reads, *e.writes)}
        # Of a cut of several values all are there, also those that this one is not
        # computed from.
        before = [
            v
            for atoms in self.others.values()
            if not reached.isdisjoint(atoms)
            for v in atoms
            if v in self.stops
        ]
        written = [*flat.invars, *(v for e in flat.equations for v in e.writes)]
        place = {v: i for i, v in enumerate(written)}
        return sorted(before, key=place.__getitem__)

    def _cost(self, v: Var) -> int | None:
        """The bytes of one example; `None` of what may not cross, or cannot."""
        aval = shape_of(v)
        keyed = jnp.issubdtype(aval.dtype, jax.dtypes.extended)
        # At another length, and at a symbolic one, what goes is what went at the first.
        sizes = self.trace.sizes_of(v)
        whole = all(isinstance(n, int) for n in sizes)
        if (
            v in self.trace.raw
            or v in self.avoided
            or v in self.trace.steady
            or keyed
            or not whole
            or aval.shape[:1] != (self.trace.batch,)
        ):
            return None
        return aval.dtype.itemsize * prod(sizes)


def _variables(atoms: Sequence[Atom]) -> list[Var]:
    return [v for v in atoms if isinstance(v, Var)]
