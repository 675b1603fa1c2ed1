"""Clients that step together, a call of a compiled turn for each: convolutions of many at once are slow on a CPU.

A party of the clients takes each of its turns once for every client; the other parties take theirs once, on what all clients
sent as one batch. The walk of one client and that of all have the same turns, so both are run from one memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Info, PyTree, TrainState
from jsplit.jaxprs.convolutions import in_parts
from jsplit.rounds.client_axis import spread
from jsplit.rounds.loops import unrolled
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.config import Config
from jsplit.training.crossing import Packet
from jsplit.training.executor import CompiledWalk, InProcess, Piece, whole
from jsplit.training.losses import info_of, loss_name, normalise_weight
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.update import gradients, update_op
from jsplit.training.walk import Name, Turn, Wire, turns


def row_by_row(
    config: Config, clients: Collection[str], count: int, *, own: bool
) -> Callable[..., tuple[TrainState, Info]]:
    """The `step` of a trainer of `spread(config, clients, count, own=own)`, whose turns are compiled one by one.

    What each client has lies along a leading axis, client after client: [count, ...], or of values [count * batch, ...]. What
    a client's parties alone read between two turns is a list of what each has; gradients of what clients share are summed.

    Args:
        config: of one client's topology.
        clients: the parties that are there once for each.
        count: how many there are.
        own: whether each has parameters and optimizers of its own.
    """
    topology = config.topology
    # A client's loss is the mean over its own examples; the objective holds the mean of these means.
    nodes = [
        replace(n, weight=n.weight / count)
        if isinstance(n, Loss) and n.party in clients
        else n
        for n in topology.nodes
    ]
    single = config._replace(topology=Topology(nodes, topology.holds))
    losses = [loss_name(x) for x in topology.losses]
    learned = {
        g for p in clients for names in gradients(config, p).values() for g in names
    }
    places, others = (
        layout_of(config),
        [p for p in topology.parties if p not in clients],
    )
    keep = {
        *losses,
        *learned,
        *(
            n
            for at in places.values()
            for n in (*at.state.values(), *at.links.values())
        ),
    }
    keep |= {
        n
        for p in others
        for n in (*places[p].params.values(), places[p].optimizer, places[p].step)
    }

    def walk(config: Config) -> list[Turn]:
        """All but the clients' updates."""
        return turns(
            [*training_ops(config), *[update_op(config, p) for p in others]], keep
        )

    def client(number: Any) -> list[Turn]:
        return walk(spread(single, clients, 1, own=own, mapped=unrolled, first=number))

    many = spread(config, clients, count, own=own)
    every, updates = walk(many), [update_op(many, p) for p in clients]
    between = {
        w
        for t in every
        if t.party in clients
        for w in t.writes
        if isinstance(w, Name) and w not in keep
    }
    shared = {"key", "step"} if own else {"key", "step", "params"}

    def in_rows(name: Name | Wire) -> bool:
        if isinstance(name, Wire):
            return True
        return (
            name not in between
            and name.kind not in shared
            and (own or name not in learned)
        )

    def for_each(i: int, turn: Turn) -> Callable[..., list]:
        """A turn of a party of the clients, once for each client."""

        def once(number, values):
            rows = [
                _row(x, number, count) if in_rows(r) else x
                for x, r in zip(values, turn.reads, strict=True)
            ]
            return client(number)[i].run(*rows)

        @jax.jit
        def empty(values):
            made = zip(turn.writes, jax.eval_shape(once, 0, values), strict=True)
            return {
                w: _zeros(x, count if in_rows(w) else None)
                for w, x in made
                if w not in between
            }

        @partial(jax.jit, donate_argnums=0)
        def call(found, number, values):
            made = dict(zip(turn.writes, once(number, values), strict=True))
            for w, x in found.items():
                found[w] = (
                    _put(x, made.pop(w), number)
                    if in_rows(w)
                    else jax.tree.map(jnp.add, x, made.pop(w))
                )
            return found, made

        def run(*values):
            def of(k):
                return [
                    x[k] if r in between else x
                    for x, r in zip(values, turn.reads, strict=True)
                ]

            found, rest = empty(of(0)), []
            for k in range(count):
                found, left = call(found, np.int32(k), of(k))
                rest.append(left)
            return [
                found[w] if w in found else [x[w] for x in rest] for w in turn.writes
            ]

        return run

    def at_once(turn: Turn) -> Callable[..., tuple]:
        donated = tuple(
            k
            for k, r in enumerate(turn.reads)
            if r.kind in ("optimizer", "params") and r in turn.writes
        )
        return jax.jit(in_parts(turn.run), donate_argnums=donated)

    def compiler(i: int, turn: Turn) -> list[Piece]:
        if i >= len(every):
            return whole(turn, jax.jit(turn.run))
        return whole(
            turn, for_each(i, turn) if turn.party in clients else at_once(turn)
        )

    # The clients' updates come last, and are no part of their turns: one for all.
    last = [Turn(op.party, (op,), op.reads, op.writes) for op in updates]
    compiled = CompiledWalk([*every, *last], keep, compiler)

    def step(
        state: TrainState, batch: Mapping[str, PyTree], weight: jax.Array
    ) -> tuple[TrainState, Info]:
        store = load(places, state, batch, normalise_weight(weight))
        compiled(store, InProcess())
        info = info_of(topology, {n.what: store[n].mean() for n in losses})
        return save_back(places, store), info

    return step


def _row(x: PyTree, number: Any, count: int) -> PyTree:
    """One client's part of what all have."""
    if isinstance(x, Packet):
        like = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(
                (s.shape[0] // count, *s.shape[1:]), s.dtype
            ),
            x.like,
        )
        return Packet(_row(x.payload, number, count), like)

    def cut(x):
        size = x.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(x, number * size, size)

    return jax.tree.map(cut, x)


def _zeros(like: PyTree, count: int | None) -> PyTree:
    """Room for what every client has, given the shapes of what one has (a number of each is [count]); or for the sum of it."""

    def grown(x):
        return (
            x.shape
            if count is None
            else (count * x.shape[0], *x.shape[1:])
            if x.shape
            else (count,)
        )

    if isinstance(like, Packet):
        return Packet(
            _zeros(like.payload, count),
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(grown(x), x.dtype), like.like),
        )
    return jax.tree.map(lambda x: jnp.zeros(grown(x), x.dtype), like)


def _put(into: PyTree, x: PyTree, number: Any) -> PyTree:
    """What all have, with one client's part in its place; the inverse of `_row`."""
    if isinstance(x, Packet):
        return Packet(_put(into.payload, x.payload, number), into.like)

    def put_in(into, x):
        x = x if x.ndim else x[None]
        return jax.lax.dynamic_update_slice_in_dim(into, x, number * x.shape[0], 0)

    return jax.tree.map(put_in, into, x)
