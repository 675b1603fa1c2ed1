"""What crosses to a party and can be undone there: a field that no value has as it is.

Proven by the rules by which `jsplit.privacy.views` names what a message is
(`jaxprs/proving`), of all that crosses to one party together, and only where something
crosses that is made of fields and the code alone: parameters are unknown to a receiver.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import Var

from jsplit.core.base import PartyState, PyTree
from jsplit.core.loans import params_for
from jsplit.core.trees import abstract
from jsplit.jaxprs.flat import Atom as Variable
from jsplit.jaxprs.flat import Flat, flatten, shape_of
from jsplit.jaxprs.proving.affine import of_entries
from jsplit.jaxprs.proving.facts import Atom, Fact
from jsplit.jaxprs.proving.given import Numbers, readings
from jsplit.jaxprs.proving.interpreting import fact_of, followed
from jsplit.jaxprs.proving.recovery import Recovery
from jsplit.jaxprs.proving.terms import Terms
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node

_RECORDS = 2  # with one, a sum over the batch would be the record

Leaves = Mapping[str, Collection[int]]
"""By value that crosses to a party, which of its leaves do."""


class _Part(NamedTuple):
    """A node as a program of few records, and how many inputs are its party's own."""

    node: Node
    flat: Flat
    own: int


class Programs(NamedTuple):
    """The nodes of a topology that fields reach, in one mode, as programs.

    Attributes:
        topology: who computes what.
        given: shapes of the fields, and of values of parties that are not here, of few
            records.
        parts: the programs, in the order of the walk.
    """

    topology: Topology
    given: Mapping[str, PyTree]
    parts: Sequence[_Part]

    def told(self, receiver: str, crossing: Leaves) -> str | None:
        """The field that a party finds out of what crosses to it, if it is proven.

        Args:
            receiver: the party.
            crossing: what crosses to it, looked at together.

        Returns:
            The name of a field that is not public and not the party's; `None` if
            nothing is proven.
        """
        held = {*self.topology.public, *self.topology.holds.get(receiver, ())}
        facts, numbers = self._facts(held)
        own = {n.name for n in self.topology.segments if n.party == receiver}
        terms, known = self._terms(held | own)
        values = self._values()
        got = [values[n][i] for n, leaves in crossing.items() for i in leaves]
        given = [fact_of(v, facts) for v in got]
        sent = [t for v in got if (t := terms.term(v)) is not None]
        for rounding in (False, True):
            found = Recovery(terms, [*known, *sent], rounding)
            for v, t in terms.of.items():
                if v in facts and (found.has(t) or found.bare(t) in found.partly):
                    given.append(facts[v])
        for field in numbers.first:
            for reading in readings(given, numbers, field, _RECORDS):
                # What a threshold lets through, or parameters stand before, learns.
                if not (reading.some or reading.key):
                    return field
        return None

    def _values(self) -> dict[str, list[Variable]]:
        return {p.node.name: [*p.flat.outvars] for p in self.parts}

    def _facts(self, held: Collection[str]) -> tuple[dict[Var, Fact], Numbers]:
        """What is proven of each variable."""
        first: dict[str, int] = {}
        size: dict[str, int] = {}
        store: dict[str, list[Fact]] = {}
        total = 0
        for name, x in self.given.items():
            leaves = jax.tree.leaves(x)
            if name not in self.topology.fields:
                store[name] = [_unknown(name, leaf) for leaf in leaves]
                continue
            at = total
            store[name] = []
            for leaf in leaves:
                count = int(np.prod(leaf.shape))
                store[name].append(_of_field(name, leaf, at, name in held))
                at += count
            if name not in held:
                first[name], size[name], total = total, at - total, at
        every: dict[Var, Fact] = {}
        for part in self.parts:
            *own, key = part.flat.invars[: part.own]
            given = [_unknown(part.node.name, shape_of(v)) for v in own]
            given.append(Fact(shape_of(key).shape, shape_of(key).dtype))
            given += [f for i in part.node.reads for f in store[i]]
            every.update(followed(part.flat, given))
            store[part.node.name] = [fact_of(v, every) for v in part.flat.outvars]
        return every, Numbers(first, size)

    def _terms(self, held: Collection[str]) -> tuple[Terms, list[int]]:
        """The programs as terms, and those that the party has of what is given."""
        terms, known = Terms(), []
        made: dict[str, list[Variable]] = {}
        for part in self.parts:
            # All have the seed, so noise of the step's own key hides nothing.
            known.append(terms.start(part.flat.invars[part.own - 1], "key"))
            inputs = iter(part.flat.invars[part.own :])
            for name in part.node.reads:
                leaves = made.get(name)
                for i in range(len(jax.tree.leaves(self.given.get(name, leaves)))):
                    v = next(inputs)
                    if leaves is None:
                        t = terms.start(v, (name, i))
                        known += [t] if name in held else []
                    elif (t := terms.term(leaves[i])) is not None:
                        terms.of[v] = t
            terms.add(part.flat)
            made[part.node.name] = [*part.flat.outvars]
        return terms, known


def _of_field(name: str, leaf: jax.ShapeDtypeStruct, at: int, held: bool) -> Fact:
    deps = frozenset([Atom("field", name)])
    fact = Fact(leaf.shape, leaf.dtype, deps, frozenset() if held else deps)
    if held:
        return fact
    ids = np.arange(at, at + int(np.prod(leaf.shape))).reshape(leaf.shape)
    fact = replace(fact, ids=ids, slope=1)
    plain = bool(ids.size) and np.dtype(leaf.dtype).kind in "fiu"
    return replace(fact, affine=of_entries(ids)) if plain else fact


def _unknown(node: str, leaf: jax.ShapeDtypeStruct) -> Fact:
    """Of parameters, statistics and values of others nothing is taken to be known."""
    deps = frozenset([Atom("params", node)])
    return Fact(leaf.shape, leaf.dtype, deps, deps)


def programs(
    topology: Topology,
    states: Mapping[str, PartyState],
    values: Mapping[str, PyTree],
    nodes: Collection[str],
    train: bool,
) -> Programs:
    """The programs of the nodes that fields reach, and of those that they read.

    Args:
        topology: who computes what.
        states: of the parties whose segments are here.
        values: shapes of fields, and of all that nodes compute.
        nodes: names of those that are traced.
        train: the mode.
    """
    given_shapes = {f: _few(values[f]) for f in topology.fields if f in values}
    shapes: dict[str, PyTree] = {**given_shapes}
    parts: list[_Part] = []
    wanted = {*nodes}
    for node in reversed(topology.segments):
        if node.name in wanted:
            wanted.update(node.reads)
    for node in topology.segments:
        if node.name not in wanted:
            continue
        if node.party not in states:
            shapes[node.name] = given_shapes[node.name] = _few(values[node.name])
            continue
        own = states[node.party]
        params = params_for(topology.loans, node.name, own.params)
        given = abstract((params, own.state[node.name], own.key))
        inputs = [shapes[i] for i in node.reads]

        def run(params: PyTree, state: PyTree, key: jax.Array, *x: PyTree, node=node):
            return node.segment.apply(params, state, key, *x, train=train)[0]

        closed, out = jax.make_jaxpr(run, return_shape=True)(*given, *inputs)
        shapes[node.name] = out
        flat = flatten(closed, calls=True)
        parts.append(_Part(node, flat, len(jax.tree.leaves(given))))
    return Programs(topology, given_shapes, parts)


def _few(value: PyTree) -> PyTree:
    """The shapes of a few records."""

    def cut(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((min(_RECORDS, x.shape[0]), *x.shape[1:]), x.dtype)

    return jax.tree.map(cut, abstract(value))
