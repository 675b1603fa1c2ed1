"""The loop over the clients of a round, each of which takes its steps.

An algorithm says what a client and the server do in `client_init`,
`client_step`, `client_final` and `server_update` (as in fedjax). How many
clients run at once, and on which devices, is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jsplit.core.base import Fields, PyTree
from jsplit.rounds.averages import zero_sums
from jsplit.rounds.carry import (
    Kept,
    LossSums,
    RoundArrays,
    RoundCarry,
    finite_of_round,
    info_of_round,
    put_rows,
    rows_of,
    zero_losses,
)
from jsplit.rounds.client_mesh import over_clients
from jsplit.rounds.recording import Told, by_client, loop, only_live, recorded_round
from jsplit.rounds.sharing import Sharing, SharingTable
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.left_out import weights_of_round
from jsplit.training.walk import Store


class Client(NamedTuple):
    """One client in its turn, or several along a leading axis.

    Attributes:
        store: its state, and the states of those it trains with.
        step: the number of its next step, by which randomness is numbered.
        sums: sums of its losses so far.
    """

    store: Store
    step: jax.Array
    sums: LossSums


class Shared(NamedTuple):
    """What clients share in a round.

    Attributes:
        store: what each starts from: as it was before the round where it
            is averaged or fresh, as the client before left it where it is
            carried.
        sums: of what is averaged, the sums over the clients so far.
    """

    store: Store
    sums: Store


class ClientMethod(Protocol):
    """What a client and the server do in a round."""

    @property
    def sharing(self) -> SharingTable:
        """How each part of a state gets from one client to the next."""
        ...

    @property
    def mesh(self) -> Mesh | None:
        """Over whose axis `clients` they are spread."""
        ...

    def group_size(self, count: int) -> int:
        """Return how many of `count` clients run at once; 1: one after the other."""
        ...

    def client_init(self, shared: Store, own: Store, step: jax.Array) -> Client:
        """Return the client at the start of its turn."""
        ...

    def client_step(
        self,
        client: Client,
        kept: Kept,
        batch: Fields,
        weight: jax.Array | None,
        count: jax.Array,
    ) -> tuple[Client, Told | None]:
        """Return the client after it has trained on one batch, and what is recorded of that."""
        ...

    def client_measure(
        self,
        client: Client,
        kept: Kept,
        batch: Fields,
        weight: jax.Array | None,
        count: jax.Array,
    ) -> Client:
        """Return the client after it has measured its losses on one batch."""
        ...

    def averaged(self, store: Store) -> Store:
        """Return what of a store is averaged over the clients."""
        ...

    def client_final(self, shared: Shared, store: Store, share: jax.Array) -> Shared:
        """Return what is shared after one client's turn, or several clients'."""
        ...

    def server_update(
        self, memory: Mapping[str, PyTree], shared: Shared, total: jax.Array
    ) -> tuple[Store, Mapping[str, PyTree]]:
        """Return what is shared after the round, and the server's new memory."""
        ...


class ForEachClient:
    """A round in which each client takes its steps, for itself or after another.

    Args:
        method: what a client and the server do, and how many clients run
            at once.
        config: of the trainer.
        ragged: whether an example may count other than 1.
        training: whether the round trains, or only measures losses.
        at_end: whether parameters are looked at after the round alone.
    """

    def __init__(
        self,
        method: ClientMethod,
        config: Config,
        ragged: bool,
        training: bool,
        at_end: bool = False,
    ):
        self.method, self.config = method, config
        self.ragged, self.training, self.at_end = ragged, training, at_end
        self.records = training and bool(config.records)
        # Of several clients at once, each device its part of them.
        axes = (None, 0, 0)
        inits = jax.vmap(self._init, in_axes=axes)
        self.clients_init = over_clients(inits, method.mesh, axes)
        axes = (0, 0, None, None, 0, 0)
        steps = jax.vmap(self._step, in_axes=axes)
        self.clients_step = over_clients(steps, method.mesh, axes)

    def __call__(
        self,
        carry: RoundCarry,
        kept: Kept,
        fields: Mapping[str, PyTree],
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]:
        """Run the round."""
        store, step, memory = carry
        pick = self.method.sharing.pick
        own = pick(store, Sharing.OWN)
        start = pick(store, Sharing.CARRIED, Sharing.AVERAGED, Sharing.FRESH)
        averaged = self.method.averaged(start) if self.training else {}
        shared = Shared(start, zero_sums(averaged))

        def turn(
            shared: Shared, client: tuple[Store, RoundArrays[jax.Array]]
        ) -> tuple[Shared, tuple[Store, LossSums, Told | None]]:
            mine, its = client
            now, told = self._all_steps(
                shared, mine, step + its.before, its, kept, fields
            )
            if self.training:
                shared = self.method.client_final(shared, now.store, its.share)
            return shared, (pick(now.store, Sharing.OWN), now.sums, told)

        size = self.method.group_size(len(arrays.client))
        in_groups = size > 1 or self.method.mesh is not None
        rows = rows_of(own, arrays.client)
        clients = rows, arrays
        if in_groups:
            clients = _grouped(clients, size)
        shared, (mine, sums, told) = jax.lax.scan(turn, shared, clients)
        if in_groups:
            mine, sums, told = _ungrouped((mine, sums, told))

        finite = finite_of_round(self.config, sums, self.training, self.at_end)
        info = info_of_round(self.config, sums, {**store, **rows})
        info = info._replace(finite=finite)
        if not self.training:
            return carry, info
        if told is not None:
            places = jnp.arange(arrays.reads.shape[1], dtype=step.dtype)
            recorded = recorded_round(
                *(arrays.client, arrays.reads, arrays.weight),
                step + arrays.before[:, None] + places,
                places < arrays.steps[:, None],
                told,
            )
            info = info._replace(recorded=recorded)
        own = put_rows(own, arrays.client, mine)
        total = arrays.share.sum()
        new, memory = self.method.server_update(memory, shared, total)
        store = {**store, **new, **own}
        return RoundCarry(store, step + arrays.steps.sum(), memory), info

    def _init(self, shared: Store, own: Store, step: jax.Array) -> Client:
        """Return a client before its first step."""
        client = self.method.client_init(shared, own, step)
        # Who measures looks at losses alone, for nothing else moves.
        sums = zero_losses(self.config, self.training, self.at_end)
        return client._replace(sums=sums)

    def _all_steps(
        self,
        shared: Shared,
        own: Store,
        step: jax.Array,
        arrays: RoundArrays[jax.Array],
        kept: Kept,
        fields: Mapping[str, PyTree],
    ) -> tuple[Client, Told | None]:
        """Run all steps of a client, or of several at once, each as many as it takes."""
        if not jnp.ndim(arrays.steps):

            def one(s: jax.Array, client: Client) -> tuple[Client, Told | None]:
                reads, weight = arrays.reads[s], arrays.weight[s]
                return self._step(client, None, kept, fields, reads, weight)

            client = self._init(shared.store, own, step)
            most = len(arrays.reads) if self.records else None
            return loop(one, client, arrays.steps, most)

        def together(s: jax.Array, clients: Client) -> tuple[Client, Told | None]:
            reads, weight = arrays.reads[:, s], arrays.weight[:, s]
            live = s < arrays.steps
            return self.clients_step(clients, live, kept, fields, reads, weight)

        clients = self.clients_init(shared.store, own, step)
        most = arrays.reads.shape[1] if self.records else None
        clients, told = loop(together, clients, arrays.steps.max(), most)
        return clients, by_client(told)

    def _step(
        self,
        client: Client,
        live: jax.Array | None,
        kept: Kept,
        fields: Mapping[str, PyTree],
        reads: jax.Array,
        weight: jax.Array,
    ) -> tuple[Client, Told | None]:
        """Run one step of one client, if it still takes one."""
        method = self.method
        # Where every example counts 1, the trainer need not know weights:
        # a loss may then be one number for a batch.
        weights = weights_of_round(weight) if self.ragged else None
        batch = rows_of(fields, reads)
        given = client, kept, batch, weights, weight.sum()
        told = None
        if self.training:
            new, told = method.client_step(*given)
        else:
            new = method.client_measure(*given)
        if live is None:
            return new, told
        # Clients that run at once all run until the last is through; what
        # one computes beyond its own steps is thrown away.
        new = jax.tree.map(partial(jnp.where, live), new, client)
        return new, only_live(live, told)


def _grouped(tree: PyTree, size: int) -> PyTree:
    """Divide the clients into groups: [clients, ...] to [groups, size, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tree)


def _ungrouped(tree: PyTree) -> PyTree:
    """Put the groups together, the inverse of `_grouped`."""
    # Not -1: a party may look at nothing, and then there are no numbers to count by.
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree
    )
