"""What a set of observers learns of the fields of others from the messages that it gets.

Observers have their own fields, parameters and all that they compute or send. So the same
message may tell one party nothing and another the label: `p - label` to whoever knows `p`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from jsplit.jaxprs.proving.affine import of_entries
from jsplit.jaxprs.proving.facts import Atom, Fact
from jsplit.jaxprs.proving.given import Numbers, readings
from jsplit.jaxprs.proving.interpreting import fact_of, followed
from jsplit.privacy.viewing.following import follow
from jsplit.privacy.viewing.records import Gives
from jsplit.privacy.viewing.tracing import KNOWN_TO_ALL, Traced
from jsplit.topology.graph import Topology
from jsplit.training.kinds import Kind
from jsplit.training.walk import Address, Name, Wire


def numbers_of(topology: Topology, traced: Traced, most: Mapping[str, int]) -> Numbers:
    """Number the entries of all fields, one field after the other."""
    first: dict[str, int] = {}
    size: dict[str, int] = {}
    total = 0
    for name, leaves in traced.start.items():
        if isinstance(name, Name) and _is_field(topology, name):
            # A field that two parties hold is one field.
            if name.what not in first:
                first[name.what] = total
                size[name.what] = sum(int(np.prod(x.shape)) for x in leaves)
                total += size[name.what]
    return Numbers(first, size, most)


def _is_field(topology: Topology, name: Name) -> bool:
    return name.kind == Kind.VALUE and name.what in topology.fields


class Observed(NamedTuple):
    """A walk as observers see it.

    Attributes:
        topology: of the walk.
        traced: the walk.
        observers: who pool what they have.
        held: the fields that they have.
        arrived: by message, what is proven of each array in it when it arrives.
        facts: the same of each variable of the walk.
    """

    topology: Topology
    traced: Traced
    observers: Collection[str]
    held: Collection[str]
    arrived: Mapping[Wire, list[Fact]]
    facts: Mapping[Var, Fact]

    def of(self, wires: Collection[Wire]) -> list[Fact]:
        """What is proven of messages, and of all that follows from them together."""
        facts = [f for w in wires for f in self.arrived[w]]
        follows = follow(self.traced, wires, self.observers, self.is_known)
        for v, partly, rounded in follows:
            found = self.facts[v]
            if found.gives:
                facts.append(
                    replace(
                        found,
                        some=found.some or partly,
                        rounded=found.rounded or rounded,
                    )
                )
        return facts

    def is_known(self, name: Name) -> bool | None:
        """Whether observers have what a walk starts from; `None`: nobody can tell."""
        if name.kind in KNOWN_TO_ALL or name.party in self.observers:
            return True
        is_field = _is_field(self.topology, name)
        return name.what in self.held if is_field else None


def observed(
    topology: Topology,
    traced: Traced,
    observers: Collection[str],
    numbers: Numbers,
    found_out: Collection[str] = (),
) -> Observed:
    """Go over a walk as observers see it.

    Args:
        topology: of the walk.
        traced: the walk.
        observers: who pool what they have; none: of each message all that it depends on.
        numbers: of the entries of fields.
        found_out: fields that the observers have found out.
    """
    held = {f for p in observers for f in topology.holds.get(p, ())} | {*found_out}
    store: dict[Address, list[Fact]] = {}
    for name, leaves in traced.start.items():
        assert isinstance(name, Name)
        store[name] = _first_facts(topology, name, leaves, observers, held, numbers)

    arrived: dict[Wire, list[Fact]] = {}
    every: dict[Var, Fact] = {}
    for part in traced.parts:
        facts = followed(part.flat, [f for r in part.op.reads for f in store[r]])
        every.update(facts)
        results = iter([fact_of(v, facts) for v in part.flat.outvars])
        for name, shapes in part.shapes.items():
            own = [next(results) for _ in shapes]
            if isinstance(name, Wire):
                arrived[name] = own
                if name.sender in observers or name.receiver in observers:
                    own = [f.known() for f in own]
            store[name] = own
    return Observed(topology, traced, observers, held, arrived, every)


def _first_facts(
    topology: Topology,
    name: Name,
    leaves: Sequence,
    observers: Collection[str],
    held: Collection[str],
    numbers: Numbers,
) -> list[Fact]:
    is_field = _is_field(topology, name)
    atom = Atom("field" if is_field else str(name.kind), name.what or name.party)
    if name.kind in KNOWN_TO_ALL:
        atom = Atom(str(name.kind), "")
    known = name.kind in KNOWN_TO_ALL or name.party in observers
    known = known or (is_field and name.what in held)
    deps = frozenset([atom])
    unknown = frozenset() if known else deps
    found: list[Fact] = []
    first = numbers.first.get(name.what, 0)
    for x in leaves:
        size = int(np.prod(x.shape))
        ids = None
        if is_field and not known:
            ids = np.arange(first, first + size).reshape(x.shape)
            first += size
        # Whole numbers among parameters are not learned, so they may be 0 or equal.
        learned = name.kind == Kind.PARAMS and jnp.issubdtype(x.dtype, jnp.inexact)
        fact = Fact(x.shape, x.dtype, deps, unknown, ids, slope=int(is_field))
        if ids is not None and ids.size and jnp.dtype(x.dtype).kind in "fiu":
            fact = replace(
                fact, affine=of_entries(ids), most=numbers.most.get(name.what)
            )
        found.append(replace(fact, generic=learned, distinct=learned))
    return found


def given_away(
    facts: Sequence[Fact], numbers: Numbers, field: str, records: int
) -> Gives | None:
    """What arrays give away of a field, all together: as much, as strictly, as is proven.

    Args:
        facts: of the arrays.
        numbers: of the entries of fields.
        field: its name.
        records: in the walk.
    """
    best: Gives | None = None
    for given in readings(facts, numbers, field, records):
        found = Gives(
            field,
            len(given.entries) // records,
            numbers.size[field] // records,
            given.rounded,
            given.some,
            tuple(sorted({str(a.name) for a in given.key})),
        )
        if best is None or found.strength > best.strength:
            best = found
    return best


def learned(
    topology: Topology,
    walks: Sequence[Traced],
    observers: Collection[str],
    numbers: Numbers,
    records: int,
) -> dict[str, Gives]:
    """By field of others, what observers find out of it by all messages that they get.

    What they have found out helps them with the next one, so it is gone over until
    nothing is new. What is known under conditions gives what follows under the same.
    """
    held = {f for p in observers for f in topology.holds.get(p, ())}
    found: dict[str, Gives] = {}
    public = {*topology.public} - held
    if public:
        # Of these it is said whether they cross; what they hide is no secret.
        facts = _got(topology, walks, observers, numbers, ())
        given = {f: given_away(facts, numbers, f, records) for f in public}
        found = {f: g for f, g in given.items() if g is not None}
    # What is known for certain first: what follows from it needs no conditions.
    for surely in (True, False):
        if not surely and not any(map(_asks, found.values())):
            break
        while True:
            known = {
                f: g
                for f, g in found.items()
                if g.whole and not (surely and _asks(g)) and f not in public
            }
            facts = _got(topology, walks, observers, numbers, {*known, *public})
            fresh: dict[str, Gives] = {}
            beyond = held | known.keys() | public
            for f in (f for f in numbers.first if f not in beyond):
                given = given_away(facts, numbers, f, records)
                given = given and _under(given, known.values())
                if given and (f not in found or given.strength > found[f].strength):
                    fresh[f] = given
            found |= fresh
            if not any(g.whole for g in fresh.values()):
                break
    return found


def _got(
    topology: Topology,
    walks: Sequence[Traced],
    observers: Collection[str],
    numbers: Numbers,
    found_out: Collection[str],
) -> list[Fact]:
    """What is proven of all arrays that observers get of others."""
    facts: list[Fact] = []
    for traced in walks:
        seen = observed(topology, traced, observers, numbers, found_out)
        facts += seen.of(
            [
                w
                for w in seen.arrived
                if w.receiver in observers and w.sender not in observers
            ]
        )
    return facts


def _asks(gives: Gives) -> bool:
    """Whether a field is known only to fewer bits, or up to parameters."""
    return gives.rounded or bool(gives.up_to)


def _under(gives: Gives, known: Collection[Gives]) -> Gives:
    """What is found out with the help of fields that are known, under their conditions."""
    keys = {*gives.up_to, *(n for g in known for n in g.up_to)}
    rounded = gives.rounded or any(g.rounded for g in known)
    return replace(gives, rounded=rounded, up_to=tuple(sorted(keys)))
