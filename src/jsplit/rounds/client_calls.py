"""Clients that step together, one call of a compiled turn for each client.

This is for convolutions on a CPU, where many at once are slow. A party of
the clients takes each of its turns once for every client; the other
parties take theirs once, on what all clients sent as one batch. The walk
of one client and that of all have the same turns, so both run against one
store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Info, PyTree, TrainState
from jsplit.rounds.client_axis import vmap_clients
from jsplit.rounds.client_rows import empty_rows, put_row, row_of
from jsplit.rounds.loops import jit_large_batch, one_after_another
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.config import Config
from jsplit.training.executor import CompiledWalk, InProcess, Piece, whole
from jsplit.training.kinds import Kind
from jsplit.training.losses import info_of, loss_name, normalise_weight
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.update import gradients, update_op
from jsplit.training.walk import Address, Name, Turn, Wire, turns


def one_call_per_client(
    config: Config, clients: Sequence[str], count: int, *, own: bool
) -> Callable[..., tuple[TrainState, Info]]:
    """Make the `step` of a trainer of `vmap_clients(config, clients, count, own=own)`.

    Its turns are compiled one by one. What each client has lies along a
    leading axis, client after client: [count, ...], or of values [count *
    batch, ...].

    Args:
        config: of one client's topology.
        clients: the parties that are there once for each client.
        count: how many clients there are.
        own: whether each has parameters and optimizers of its own; if not,
            the gradients of what they share are summed.

    Returns:
        `step(state, batch, weight) -> (state, info)`.
    """
    topology, layout = config.topology, layout_of(config)
    losses = [loss_name(x) for x in topology.losses]
    walks = _Walks(config, tuple(clients), count, own)

    # The clients' updates are no part of their turns: with shared
    # parameters there is one, after the gradients of all clients are
    # summed.
    updates = [update_op(walks.many, party) for party in clients]
    last = [Turn(op.party, (op,), op.reads, op.writes) for op in updates]

    def compiler(i: int, turn: Turn) -> list[Piece]:
        if i >= len(walks.turns):
            return whole(turn, jax.jit(turn.run))
        if turn.party in clients:
            return whole(turn, _TurnOfEach(walks, i, turn))
        return whole(turn, jit_large_batch(turn.run, donate=_replaced(turn)))

    walk = CompiledWalk([*walks.turns, *last], walks.keep, compiler)

    def step(
        state: TrainState, batch: Mapping[str, PyTree], weight: jax.Array
    ) -> tuple[TrainState, Info]:
        store = load(layout, state, batch, normalise_weight(weight))
        walk(store, InProcess())
        # A client's loss is [count], one number for each client.
        found = {name.what: store[name].mean() for name in losses}
        return save_back(layout, store), info_of(topology, found)

    return step


def _replaced(turn: Turn) -> tuple[int, ...]:
    """Return which inputs of a turn are given back new, so may be donated."""
    # Only of other parties: what is a client's own is still read after the
    # step, where that client took none.
    return tuple(
        k
        for k, r in enumerate(turn.reads)
        if r.kind in (Kind.OPTIMIZER, Kind.PARAMS) and r in turn.writes
    )


@dataclass(frozen=True, eq=False)
class _Walks:
    """The walk of all clients, and the same walk of one client."""

    config: Config
    clients: tuple[str, ...]
    count: int
    own: bool

    @cached_property
    def many(self) -> Config:
        """The training of all clients at once."""
        return vmap_clients(self.config, self.clients, self.count, own=self.own)

    @cached_property
    def turns(self) -> list[Turn]:
        """The turns of all clients at once."""
        return self._turns_of(self.many)

    def turn_of_client(self, i: int, number: jax.Array | int) -> Turn:
        """Return turn `i` of the client in place `number`, which may be traced."""
        one = vmap_clients(
            self._single,
            self.clients,
            1,
            own=self.own,
            vmap=one_after_another,
            first=number,
        )
        return self._turns_of(one)[i]

    def stacked(self, address: Address) -> bool:
        """Return whether a store has a row of it for each client."""
        if isinstance(address, Wire):
            return True
        if address in self.between or address.kind in (Kind.KEY, Kind.STEP):
            return False
        # Parameters that clients share are there once, and the sum of
        # their gradients too.
        return self.own or not (
            address.kind == Kind.PARAMS or address in self.gradients
        )

    @cached_property
    def between(self) -> set[Address]:
        """What a client's party alone reads between two turns: a list, one for each client.

        Most of it are residuals of the forward pass. A list spares the
        copies of putting them into one array and taking them out again.
        """
        written = {w for t in self.turns if t.party in self.clients for w in t.writes}
        return {w for w in written if isinstance(w, Name) and w not in self.keep}

    @cached_property
    def gradients(self) -> set[Name]:
        """The gradients of the clients' parameters."""
        found: set[Name] = set()
        for party in self.clients:
            for names in gradients(self.config, party).values():
                found.update(names)
        return found

    @cached_property
    def keep(self) -> set[Address]:
        """What the turns must leave: losses, gradients and new states."""
        found: set[Address] = {loss_name(x) for x in self.config.topology.losses}
        found |= self.gradients
        for party, at in layout_of(self.config).items():
            found.update([*at.state.values(), *at.links.values()])
            if party not in self.clients:
                found.update([*at.params.values(), at.optimizer, at.step])
        return found

    @cached_property
    def _single(self) -> Config:
        """The training of one client, as a part of that of all."""
        topology = self.config.topology
        nodes = []
        for node in topology.nodes:
            # A client's loss is the mean over its own examples; the
            # objective holds the mean of these means.
            if isinstance(node, Loss) and node.party in self.clients:
                node = replace(node, weight=node.weight / self.count)
            nodes.append(node)
        return self.config._replace(topology=Topology(nodes, topology.holds))

    def _turns_of(self, config: Config) -> list[Turn]:
        """Return the turns of a training, all but the clients' updates."""
        others = [p for p in config.topology.parties if p not in self.clients]
        updates = [update_op(config, party) for party in others]
        return turns([*training_ops(config), *updates], self.keep)


class _TurnOfEach:
    """A turn of a party of the clients, run once for each client."""

    def __init__(self, walks: _Walks, i: int, turn: Turn):
        self.walks, self.i, self.turn = walks, i, turn
        self.empty = jax.jit(self._empty)
        # The rows of all are donated from call to call, so each is written
        # in its place.
        self.call = jax.jit(self._call, donate_argnums=0)

    def __call__(self, *values: PyTree) -> list[PyTree]:
        """Run the turn on what all clients have."""
        found = self.empty(self._of_client(values, 0))
        rest = []
        for k in range(self.walks.count):
            # A NumPy number: a Python one would be compiled for anew.
            found, left = self.call(found, np.int32(k), self._of_client(values, k))
            rest.append(left)
        return [
            found[w] if w in found else [x[w] for x in rest] for w in self.turn.writes
        ]

    def _of_client(self, values: Sequence[PyTree], k: int) -> list[PyTree]:
        """Return the inputs with client `k`'s of what is a list of what each has."""
        return [
            x[k] if r in self.walks.between else x
            for x, r in zip(values, self.turn.reads, strict=True)
        ]

    def _once(self, number: jax.Array | int, values: Sequence[PyTree]) -> tuple:
        """Run the turn of one client on its rows."""
        rows = []
        for x, r in zip(values, self.turn.reads, strict=True):
            stacked = self.walks.stacked(r)
            rows.append(row_of(x, number, self.walks.count) if stacked else x)
        return self.walks.turn_of_client(self.i, number).run(*rows)

    def _empty(self, values: Sequence[PyTree]) -> dict[Address, PyTree]:
        """Make room for what all clients leave."""
        shapes = jax.eval_shape(self._once, 0, values)
        room = {}
        for w, x in zip(self.turn.writes, shapes, strict=True):
            if w not in self.walks.between:
                count = self.walks.count if self.walks.stacked(w) else None
                room[w] = empty_rows(x, count)
        return room

    def _call(
        self,
        found: dict[Address, PyTree],
        number: jax.Array | int,
        values: Sequence[PyTree],
    ) -> tuple[dict[Address, PyTree], dict[Address, PyTree]]:
        """Run the turn of one client, and put what it leaves to what the others left.

        Returns:
            What all clients leave so far, and what this client alone reads
            later.
        """
        made = dict(zip(self.turn.writes, self._once(number, values), strict=True))
        new = {}
        for w, x in found.items():
            if self.walks.stacked(w):
                new[w] = put_row(x, made.pop(w), number)
            else:
                new[w] = jax.tree.map(jnp.add, x, made.pop(w))
        return new, made
