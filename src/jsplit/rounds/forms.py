"""The state of many clients in its two forms: as users hold it, and as programs do.

Both are made from one store, keyed by name: a state of many clients is
that of one, with a leading axis [clients] wherever a part is each client's
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.federation import Clients, Federation, SharedLeaves
from jsplit.core.placement import replicate, shard_batch
from jsplit.core.secret_keys import drawn
from jsplit.core.trees import abstract
from jsplit.rounds.carry import Kept, RoundCarry
from jsplit.rounds.client_mesh import CLIENTS
from jsplit.rounds.sharing import PartySharing, Sharing, SharingTable
from jsplit.training.store import Layout, key_and_step, load, save_back
from jsplit.training.walk import Name, Store


@dataclass(frozen=True, eq=False)
class StateForms:
    """Converts states of many clients between the form of users and that of programs.

    Attributes:
        layout: under which names each party's state lies in a store.
        sharing: which parts are each client's own.
        mesh: over whose axis `clients` these lie spread.
    """

    layout: Layout
    sharing: SharingTable
    mesh: Mesh | None

    def learned(self, parties: Mapping[str, PartyState]) -> Store:
        """Return what a round carries, by name: all but the step, and what it never changes."""
        store = load(self.layout, TrainState(parties))
        for at in self.layout.values():
            del store[at.key], store[at.step]
            for other, _ in at.frozen.values():
                del store[other]
        return store

    def kept(self, parties: Mapping[str, PartyState]) -> Kept:
        """Return what no round changes."""
        # The key is the same at all parties, so that of any will do.
        key = parties[next(iter(self.layout))].key
        if not any(at.frozen for at in self.layout.values()):
            return Kept(key, {})
        store = load(self.layout, TrainState(parties))
        names = [x.name for at in self.layout.values() for x in at.frozen.values()]
        return Kept(key, {name: store[name] for name in names})

    def own(self, parties: Mapping[str, PartyState]) -> Store:
        """Return what each client has of its own, [clients, ...]."""
        store = load(self.layout, TrainState(parties))
        return {name: store[name] for name in self._own_names}

    @cached_property
    def _own_names(self) -> list[Name]:
        # Found out once: this is asked in every round, which a small model
        # trains in less than a millisecond.
        names: list[Name] = []
        for at in self.layout.values():
            names += [*at.params.values(), *at.state.values(), *at.links.values()]
            names += [*at.strengths.values(), at.optimizer]
            names += [at.secret] if at.secret else []
        return [name for name in names if self.sharing[name] is Sharing.OWN]

    @cached_property
    def _own_parts(self) -> frozenset[tuple[str, str]]:
        """What each client has of its own: parties, and fields of their states."""
        found: set[tuple[str, str]] = set()
        for party, parts in self.sharing.parties.items():
            shared = zip(PartySharing._fields, parts, strict=True)
            found |= {(party, part) for part, how in shared if how is Sharing.OWN}
            if self.layout[party].secret:
                found.add((party, "secret"))
        return frozenset(found)

    @cached_property
    def _shared_leaves(self) -> frozenset[SharedLeaves]:
        """Of what each client has of its own, what is one for all since no step changes it."""
        return frozenset(
            SharedLeaves(party, part, name.what, changes)
            for party, at in self.layout.items()
            for name, (_, changes) in at.frozen.items()
            if (party, part := str(name.kind)) in self._own_parts
        )

    def open(self, state: Federation) -> tuple[RoundCarry, Kept]:
        """Return what a program carries in the place of a state, and what it keeps."""
        # The step is the same at all parties, so that of any will do.
        party = next(iter(self.layout))
        own = state.parties[party]
        carry = RoundCarry(self.learned(state.parties), own.step, state.server)
        return self.at_rest(carry, self.kept(state.parties))

    def close(
        self, carry: RoundCarry, kept: Kept, names: tuple[str, ...]
    ) -> Federation:
        """Return the state that a program carried for clients of these names.

        This is the inverse of `open`.
        """
        parties = self.one(carry.store, kept, carry.step).parties
        clients = Clients(names, self._own_parts, self._shared_leaves)
        return Federation(parties, carry.server, clients)

    def one(self, store: Store, kept: Kept, step: jax.Array) -> TrainState:
        """Return a state of one client, with what no round changes, at a step."""
        store = {**store, **kept.frozen, **key_and_step(self.layout, kept.key, step)}
        return save_back(self.layout, store)

    def at_rest(self, carry: RoundCarry, kept: Kept) -> tuple[RoundCarry, Kept]:
        """Place a carry on devices: each client's own parts sharded, all else replicated."""
        if self.mesh is None:
            return carry, kept
        store = {}
        for name, x in carry.store.items():
            if self.sharing[name] is Sharing.OWN:
                # Each device has its own clients, so nothing moves when
                # they train.
                store[name] = shard_batch(x, self.mesh, CLIENTS)
            else:
                store[name] = replicate(x, self.mesh)
        step, server, kept = replicate((carry.step, carry.server, kept), self.mesh)
        return RoundCarry(store, step, server), kept

    def repeat_own(self, store: Store, clients: int) -> Store:
        """Return the store with each client's own parts, [clients, ...], all alike.

        But for secrets: each client has another.
        """

        def repeat(x: jax.Array) -> jax.Array:
            return jnp.repeat(x[None], clients, 0)

        own = self.sharing.pick(store, Sharing.OWN)
        repeated = {n: jax.tree.map(repeat, x) for n, x in own.items()}
        for at in self.layout.values():
            if at.secret is not None:
                repeated[at.secret] = drawn(clients)
        return {**store, **repeated}

    def shapes_of_one(self, state: Federation) -> TrainState:
        """Return the shapes and dtypes of a state of one client."""

        def row(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

        # Nothing is indexed: arrays of another process could not be.
        own: PyTree = jax.tree.map(row, abstract(self.own(state.parties)))
        store = {**abstract(load(self.layout, TrainState(state.parties))), **own}
        return save_back(self.layout, store)
