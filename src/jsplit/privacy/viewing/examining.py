"""What is proven of every message of a topology, and of what sets of parties find out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import jax
import numpy as np

from jsplit.core.base import Message, PyTree, TrainState
from jsplit.jaxprs.proving.facts import Fact
from jsplit.jaxprs.proving.given import Numbers
from jsplit.privacy.viewing.asking import states_of
from jsplit.privacy.viewing.observing import (
    given_away,
    learned,
    numbers_of,
    observed,
)
from jsplit.privacy.viewing.records import Gives
from jsplit.privacy.viewing.tracing import Traced, few, messages, trace
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.kinds import FROZEN, Kind
from jsplit.training.walk import Wire


class Crossed(NamedTuple):
    """What is proven of a message.

    Attributes:
        message: its shape and bytes.
        modes: in which it crosses.
        fields: those that it depends on.
        nodes: those whose parameters or statistics it depends on.
        numbers: of each record.
        gives: what it gives away to its receiver.
        enough_for: fields that have no more numbers than it has.
        value_gives: what it would give away without its link.
    """

    message: Message
    modes: tuple[str, ...]
    fields: tuple[str, ...]
    nodes: tuple[str, ...]
    numbers: int
    gives: tuple[Gives, ...]
    enough_for: tuple[str, ...]
    value_gives: tuple[Gives, ...]


class Examined(NamedTuple):
    """A topology whose walks are traced.

    Attributes:
        topology: who computes what.
        walks: its walks.
        numbers: of the entries of fields.
        records: in the walks.
        crossed: by message.
    """

    topology: Topology
    walks: tuple[Traced, ...]
    numbers: Numbers
    records: int
    crossed: Mapping[Wire, Crossed]

    def find_out(self, parties: Collection[str]) -> tuple[Gives, ...]:
        """What parties find out of the fields of others if they pool all they have."""
        found = learned(self.topology, self.walks, parties, self.numbers, self.records)
        return tuple(found.values())


def examine(
    config: Config,
    shapes: Mapping[str, PyTree],
    state: TrainState | None,
    most: Mapping[str, int],
) -> Examined:
    """Trace the walks, and find what each message gives away to its receiver.

    Args:
        config: of the training.
        shapes: of the fields, of the user's batch.
        state: as for `views`.
        most: by field of class numbers, the largest, as far as it is known.
    """
    sizes = messages(*states_of(config, shapes, state), shapes)
    small = few(shapes)
    walks = tuple(trace(*states_of(config, small, state), small))
    numbers = numbers_of(config.topology, walks[0], most)
    records = next(x.shape[0] for x in jax.tree.leaves(small))
    given = _gives(config.topology, walks, numbers, records)
    bare: dict[Wire, dict[str, Gives]] = {}
    if config.links:
        plain = config._replace(links={})
        unlinked = tuple(trace(*states_of(plain, small, state), small))
        bare = _gives(config.topology, unlinked, numbers, records)

    sizes_of = {f: n // records for f, n in numbers.size.items()}
    crossed: dict[Wire, Crossed] = {}
    for traced in walks:
        outside = observed(config.topology, traced, (), numbers)
        for wire, facts in outside.arrived.items():
            before = crossed.get(wire)
            count = sum(int(np.prod(f.shape)) for f in facts) // records
            fields = _named(
                config.topology.fields, facts, before and before.fields, "field"
            )
            crossed[wire] = Crossed(
                sizes[traced.mode, wire] if before is None else before.message,
                (traced.mode,) if before is None else (*before.modes, traced.mode),
                fields,
                _named(config.topology.node, facts, before and before.nodes, "node"),
                count,
                tuple(given.get(wire, {}).values()),
                tuple(f for f in fields if sizes_of.get(f, count + 1) <= count),
                tuple(bare.get(wire, {}).values()),
            )
    return Examined(config.topology, walks, numbers, records, crossed)


def _named(
    order: Collection[str],
    facts: Collection[Fact],
    before: tuple[str, ...] | None,
    what: str,
) -> tuple[str, ...]:
    """The fields or nodes that a message depends on, in either mode."""
    kinds = (
        ("field",)
        if what == "field"
        else (Kind.PARAMS, Kind.STATE, Kind.HELD_STATE, *FROZEN)
    )
    found = {a.name for f in facts for a in f.deps if a.kind in kinds} | {
        *(before or ())
    }
    return tuple(n for n in order if n in found)


def _gives(
    topology: Topology, walks: Collection[Traced], numbers: Numbers, records: int
) -> dict[Wire, dict[str, Gives]]:
    """By message and field, the most that is proven in either mode."""
    found: dict[Wire, dict[str, Gives]] = {}
    # What is public is taken off what is not; and said to cross where it does.
    ways = [(), topology.public] if topology.public else [()]
    for traced, public in product(walks, ways):
        outside = observed(topology, traced, (), numbers, public)
        for receiver in topology.parties:
            held = {*topology.holds.get(receiver, ()), *public}
            seen = observed(topology, traced, (receiver,), numbers, public)
            for wire in seen.arrived:
                if wire.receiver != receiver:
                    continue
                facts, bare = seen.of([wire]), outside.of([wire])
                for field in numbers.first:
                    own = given_away(facts, numbers, field, records)
                    if own is None or field in held:
                        continue
                    others = given_away(bare, numbers, field, records)
                    # An outsider who is shown the message alone could not tell.
                    if others is None or others.strength < own.strength:
                        own = replace(own, needs_own=True)
                    best = found.setdefault(wire, {})
                    if field not in best or own.strength > best[field].strength:
                        best[field] = own
    return found
