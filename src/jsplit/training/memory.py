"""Where each part of a state lies while a step runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.training.losses import weight_of
from jsplit.training.step import Config, wires
from jsplit.training.walk import Name


class Places(NamedTuple):
    """Where each part of a party's state lies in its memory, and each field that it holds."""

    params: dict[str, Name]
    state: dict[str, Name]
    optimizer: Name
    links: dict[str, Name]
    key: Name
    step: Name
    fields: dict[str, Name]


def places_of(config: Config) -> dict[str, Places]:
    """The places of every party."""
    topology = config.topology
    linked = [w for w in wires(topology) if (w.kind, w.what) in config.links]
    found = {}
    for p in topology.parties:
        own = [n.name for n in topology.segments if n.party == p]
        found[p] = Places(
            {n: Name(p, "params", n) for n in own},
            {n: Name(p, "state", n) for n in own},
            Name(p, "optimizer"),
            {w.label: Name(p, "link", w.label) for w in linked if w.sender == p},
            Name(p, "key"),
            Name(p, "step"),
            {f: Name(p, "value", f) for f in topology.holds.get(p, ())},
        )
    return found


Memories = dict[str, dict]


def place(
    places: Mapping[str, Places],
    state: TrainState,
    batch: Mapping[str, PyTree],
    weight: jax.Array | None = None,
) -> Memories:
    """The memory of each party at the start of a step: its state, its fields, and how much each example counts."""
    memories: Memories = {}
    if state.parties.keys() != places.keys():
        raise ValueError(
            f"the state is of another trainer: it has the parties {list(state.parties)}, expected {list(places)}."
        )
    for party, at in places.items():
        own = state.parties[party]
        for what, names, kept in (
            ("nodes", at.params, own.params),
            ("links", at.links, own.links),
        ):
            if names.keys() != kept.keys():
                raise ValueError(
                    f"the state of `{party}` is of another trainer: it has the {what} {list(kept)}, expected {list(names)}."
                )
        memory = {
            at.optimizer: own.optimizer,
            at.key: own.key,
            at.step: own.step,
            weight_of(party): weight,
        }
        for names, kept in (
            (at.params, own.params),
            (at.state, own.state),
            (at.links, own.links),
        ):
            for n, name in names.items():
                memory[name] = kept[n]
        for f, name in at.fields.items():
            if f in batch:
                memory[name] = batch[f]
        memories[party] = memory
    return memories


def collect(places: Mapping[str, Places], memories: Memories) -> TrainState:
    """The state that lies in the memories; the inverse of `place`."""
    parties = {}
    for party, at in places.items():
        memory = memories[party]
        params, state, links = (
            {n: memory[name] for n, name in names.items()}
            for names in (at.params, at.state, at.links)
        )
        parties[party] = PartyState(
            params, state, memory[at.optimizer], links, memory[at.key], memory[at.step]
        )
    return TrainState(parties)


def together(memories: Memories) -> dict[Name, PyTree]:
    """All memories as one: names tell whose each thing is."""
    return {name: x for memory in memories.values() for name, x in memory.items()}


def apart(places: Mapping[str, Places], env: Mapping[Name, PyTree]) -> Memories:
    """The inverse of `together`."""
    memories: Memories = {party: {} for party in places}
    for name, x in env.items():
        if isinstance(name, Name):
            memories[name.party][name] = x
    return memories
