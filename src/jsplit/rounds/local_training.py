"""Rounds in which each client trains for itself: turns, SplitFed, FedAvg.

This is the federated averaging of McMahan et al., in which each part of each
party's state may be averaged, carried on, a client's own, or fresh::

    for each client k of the round:
        client = client_init(shared, own[k])
        for each batch of k:
            client = client_step(client, batch)
        own[k], shared = client_final(shared, client, share[k])
    shared = server_update(shared)

Where nothing is carried, the clients run at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jsplit.core.base import Fields, PyTree
from jsplit.core.checks import as_positive_int
from jsplit.core.trainer import EvaluateFn, Trainer
from jsplit.core.trees import combine, inexact_part
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.averages import add_clients, mean_of
from jsplit.rounds.carry import Kept, add_flags, add_losses, add_step, zero_losses
from jsplit.rounds.client_mesh import CLIENTS, clients_mesh
from jsplit.rounds.driver import make_algorithm
from jsplit.rounds.for_each_client import Client, ForEachClient, Shared
from jsplit.rounds.forms import StateForms
from jsplit.rounds.measuring import losses_trainer
from jsplit.rounds.noise import after_one, words_in
from jsplit.rounds.own_optimizers import check_server
from jsplit.rounds.recording import TellingStep, Told, telling
from jsplit.rounds.restarts import going_on, restarted, starts_anew
from jsplit.rounds.round_method import RoundProgram, check_trainer
from jsplit.rounds.sharing import Sharing, SharingTable
from jsplit.training.config import Config
from jsplit.training.evaluating import ScalarLosses
from jsplit.training.initial import first_memory
from jsplit.training.kinds import Kind
from jsplit.training.store import layout_of
from jsplit.training.walk import Name, Store


def local_training(
    trainer: Trainer,
    sharing: SharingTable,
    *,
    server: optax.GradientTransformation | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    records: tuple[str, ...] = (),
) -> Algorithm:
    """Make the algorithm in which each client trains for itself, and `sharing` says what travels.

    Args:
        trainer: what a client does in a step, with those it trains with.
        sharing: how each part of a party's state gets from one client to
            the next.
        server: the optimizer that applies averages: what a round moved,
            with the sign turned, is the gradient it takes a step along.
        chunk: how many clients run at once, on each device.
        mesh: over whose axis `clients` they are spread.
        records: what of each step is recorded, as `Config.records`.

    Returns:
        The algorithm.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    again = partial(
        local_training, trainer, sharing, server=server, chunk=chunk, mesh=mesh
    )
    config = check_trainer(trainer)._replace(records=records)
    check_server(server)
    mesh = clients_mesh(mesh, config)
    chunk = None if chunk is None else as_positive_int("chunk", chunk)
    if Sharing.CARRIED in sharing and (chunk or mesh):
        raise ValueError(
            "`chunk` and `mesh` are for clients that run at the same time; here one "
            "waits for another."
        )
    forms = StateForms(layout_of(config), sharing, mesh)
    scalars = ScalarLosses()
    measure = losses_trainer(trainer, scalars).evaluate
    method = LocalTraining(
        trainer,
        telling(trainer, records),
        measure,
        *(scalars, config, forms, sharing, server, chunk, mesh),
    )
    made = make_algorithm(method)
    return made if records else made._replace(recording=lambda x: again(records=x))


@dataclass(frozen=True, eq=False)
class LocalTraining:
    """What a client and the server do in a round of local training."""

    trainer: Trainer
    train: TellingStep
    measure: EvaluateFn
    scalars: ScalarLosses
    config: Config
    forms: StateForms
    sharing: SharingTable
    server: optax.GradientTransformation | None
    chunk: int | None
    mesh: Mesh | None
    at_end: bool = False
    """Whether parameters are looked at after the round alone."""

    def client_init(self, shared: Store, own: Store, step: jax.Array) -> Client:
        """Start from what is shared, the client's own, and what is fresh."""
        store: Store = dict(own)
        for name, x in shared.items():
            # A copy: the client's steps donate it, and the next client
            # starts from the same.
            store[name] = jax.tree.map(jnp.copy, x)
        for party, parts in self.sharing.parties.items():
            # Only an optimizer can be fresh.
            if parts.optimizer is Sharing.FRESH:
                name = Name(party, Kind.OPTIMIZER)
                going = going_on(store[name], self._anew(party, store))
                store[name] = self._fresh_memory(party, store, going)
        return Client(store, step, zero_losses(self.config))

    def client_step(
        self,
        client: Client,
        kept: Kept,
        batch: Fields,
        weight: jax.Array | None,
        count: jax.Array,
    ) -> tuple[Client, Told | None]:
        """Train on one batch, with those the client trains with."""
        state = self.forms.one(client.store, kept, client.step)
        state, info, told = self.train(state, batch, weight)
        number = client.step + 1
        sums = add_step(self.config, client.sums, info, count, number, self.at_end)
        return Client(self.forms.learned(state.parties), number, sums), told

    def client_measure(
        self,
        client: Client,
        kept: Kept,
        batch: Fields,
        weight: jax.Array | None,
        count: jax.Array,
    ) -> Client:
        """Measure all losses on one batch, in inference mode."""
        state = self.forms.one(client.store, kept, client.step)
        info = self.measure(state, batch, weight, noise=words_in(client.store))
        sums = add_losses(client.sums, info.losses, count)
        sums = add_flags(sums, info.finite, client.step + 1)
        return client._replace(store=after_one(client.store), sums=sums)

    def client_final(self, shared: Shared, store: Store, share: jax.Array) -> Shared:
        """Carry on what is carried, and add to the sums of what is averaged."""
        carried = {
            name: store[name] if self.sharing[name] is Sharing.CARRIED else x
            for name, x in shared.store.items()
        }
        # Which leaves these are is asked of one client's shapes: `store` may be
        # of several, along a leading axis.
        mine = self._averaged(store, shared.store)
        before = self.averaged(shared.store)
        sums = {
            name: add_clients(x, mine[name], share, before[name])
            for name, x in shared.sums.items()
        }
        return Shared(carried, sums)

    def averaged(self, store: Store) -> Store:
        """Return what is averaged: of a fresh optimizer state, what goes on from round to round."""
        return self._averaged(store, store)

    def _averaged(self, store: Store, one: Store) -> Store:
        """Return what is averaged of a store of one client or several; `one` is of one."""
        found = self.sharing.pick(store, Sharing.AVERAGED)
        for name, memory in self.sharing.pick(store, Sharing.FRESH).items():
            assert isinstance(name, Name)
            found[name] = going_on(memory, self._anew(name.party, one))
        return found

    def server_update(
        self, memory: Mapping[str, PyTree], shared: Shared, total: jax.Array
    ) -> tuple[Store, Mapping[str, PyTree]]:
        """Put averages in the place of what all clients started from."""
        new = dict(shared.store)
        before = self.averaged(shared.store)
        means = {n: mean_of(sums, total, before[n]) for n, sums in shared.sums.items()}
        new |= self.sharing.pick(means, Sharing.AVERAGED)
        if self.server is not None:
            new, memory = self._server_step(memory, shared.store, new)
        # After the server's step: a first state may hold a copy of parameters.
        for name, going in self.sharing.pick(means, Sharing.FRESH).items():
            assert isinstance(name, Name)
            new[name] = self._fresh_memory(name.party, new, going)
        return new, memory

    def _server_step(
        self, memory: Mapping[str, PyTree], before: Store, means: Store
    ) -> tuple[Store, Mapping[str, PyTree]]:
        """Take the server's step towards the means, and return its new memory."""
        assert self.server is not None
        new, memory = dict(means), dict(memory)
        for party in self._averaged_parties():
            start = inexact_part(_params(before, party))
            mean = inexact_part(_params(new, party))
            # What the round moved, with the sign turned, is the gradient
            # (FedOpt).
            gradient = jax.tree.map(jnp.subtract, start, mean)
            updates, memory[party] = self.server.update(gradient, memory[party], start)
            moved = optax.apply_updates(start, updates)
            # Integer parameters have no gradient, and stay what they are.
            for node, x in combine(_params(new, party), moved).items():
                new[Name(party, Kind.PARAMS, node)] = x
        return new, memory

    def server_init(self, store: Store) -> dict[str, PyTree]:
        """Return the first memory of the server's optimizer, by averaged party."""
        # Asked here so that what cannot be told is refused before a round
        # is compiled.
        self.averaged(store)
        if self.server is None:
            return {}
        return {
            party: self.server.init(inexact_part(_params(store, party)))
            for party in self._averaged_parties()
        }

    def group_size(self, count: int) -> int:
        """Return how many clients run at once: 1 where one waits for another."""
        if Sharing.CARRIED in self.sharing:
            return 1
        devices = self.mesh.shape[CLIENTS] if self.mesh else 1
        each = -(-count // devices)
        chunk = self.chunk
        if chunk is None:
            # A CPU is busy with one, whose state then stays in its cache.
            chunk = 1 if jax.default_backend() == "cpu" else each
        return devices * min(chunk, each)

    def round_program(
        self, *, ragged: bool, training: bool, at_end: bool = False
    ) -> RoundProgram:
        """Return the loop over the clients of a round."""
        method = replace(self, at_end=at_end)
        return ForEachClient(method, self.config, ragged, training, at_end)

    def _averaged_parties(self) -> list[str]:
        return [
            party
            for party, parts in self.sharing.parties.items()
            if parts.params is Sharing.AVERAGED
        ]

    def _fresh_memory(self, party: str, store: Store, going: list[jax.Array]) -> PyTree:
        """Return a first state of the party's optimizer in which `going` goes on."""
        trained = self._trained(party, store)
        # A party of segments without parameters has no optimizer.
        if not trained:
            return ()
        first = first_memory(self.config, party, trained)
        return restarted(first, going, self._anew(party, store))

    def _anew(self, party: str, store: Store) -> list[bool]:
        """Return which leaves of the party's optimizer state start anew in every turn."""
        trained = self._trained(party, store)
        if not trained:
            return []
        return starts_anew(self.config.optimizer[party], trained, party)

    def _trained(self, party: str, store: Store) -> PyTree:
        """Return the parameters that the party's optimizer is over, by node."""
        node = self.config.topology.node
        params = _params(store, party)
        return inexact_part(
            {n: x for n, x in params.items() if node[n].segment.trainable}
        )


def _params(store: Store, party: str) -> dict[str, PyTree]:
    """Return a party's parameters by node, as its optimizer has them."""
    return {
        name.what: x
        for name, x in store.items()
        if isinstance(name, Name) and name[:2] == (party, Kind.PARAMS)
    }
