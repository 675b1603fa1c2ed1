"""Clients that step together, a call of a compiled turn for each: where the convolutions of many are no one program.

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

from jsplit.base import Info, PyTree, TrainState
from jsplit.convolutions import in_parts
from jsplit.loops import unrolled
from jsplit.losses import of_mean_one
from jsplit.nodes import Loss
from jsplit.spread import spread
from jsplit.step import Config, Packet, training_ops
from jsplit.topology import Topology
from jsplit.training import apart, collect, info_of, place, places_of, together
from jsplit.update import update_ops
from jsplit.walk import Name, Turn, Wire, turns


def row_by_row(config: Config, clients: Collection[str], count: int) -> Callable[..., tuple[TrainState, Info]]:
    """The `step` of a trainer of `spread(config, clients, count, own=True)`, whose parts are compiled one by one.

    Of a client's parties everything has a leading axis along which client follows client: [count, ...], or of values
    [count * batch, ...]. What only they themselves read between two turns is a list of what each has.

    Args:
        config: of one client's topology.
        clients: the parties that are there once for each.
        count: how many there are.
    """
    topology = config.topology
    # A client's loss is the mean over its own examples; the objective holds the mean of these means.
    nodes = [replace(n, weight=n.weight / count) if isinstance(n, Loss) and n.party in clients else n for n in topology.nodes]
    single = config._replace(topology=Topology(nodes, topology.holds))
    losses = [Name(x.party, "loss", x.name) for x in topology.losses]
    places = places_of(config)
    lasting = {n for p in places.values() for n in (*p.params.values(), *p.state.values(), *p.links.values(), p.optimizer)}
    keep = {*losses, *lasting, *(p.step for p in places.values())}

    def walk(config: Config) -> list[Turn]:
        return turns([*training_ops(config), *update_ops(config)], keep)

    def client(number: Any) -> list[Turn]:
        return walk(spread(single, clients, 1, own=True, mapped=unrolled, first=number))

    every = walk(spread(config, clients, count, own=True))
    between = {w for t in every if t.party in clients for w in t.writes if isinstance(w, Name) and w not in keep}

    def in_rows(name: Name | Wire) -> bool:
        return isinstance(name, Wire) or (name not in between and name.kind not in ("key", "step"))

    def for_each(i: int, turn: Turn) -> Callable[..., list]:
        """A turn of a party of the clients, once for each client."""

        def once(number, values):
            rows = [row(x, number, count) if in_rows(r) else x for x, r in zip(values, turn.reads, strict=True)]
            return client(number)[i].run(*rows)

        @jax.jit
        def empty(values):
            made = zip(turn.writes, jax.eval_shape(once, 0, values), strict=True)
            return {w: zeros(x, count) for w, x in made if in_rows(w)}

        @partial(jax.jit, donate_argnums=0)
        def call(into, number, values):
            made = dict(zip(turn.writes, once(number, values), strict=True))
            rows = {w: put(x, made.pop(w), number) for w, x in into.items()}
            return rows, made

        def run(*values):
            def of(k):
                return [x[k] if r in between else x for x, r in zip(values, turn.reads, strict=True)]

            rows, others = empty(of(0)), []
            for k in range(count):
                rows, left = call(rows, np.int32(k), of(k))
                others.append(left)
            found = rows | {w: [x[w] for x in others] if w in between else others[0][w] for w in others[0]}
            return [found[w] for w in turn.writes]

        return run

    def at_once(turn: Turn) -> Callable[..., tuple]:
        donated = tuple(k for k, r in enumerate(turn.reads) if r.kind in ("optimizer", "params") and r in turn.writes)
        return jax.jit(in_parts(turn.run), donate_argnums=donated)

    functions = [for_each(i, t) if t.party in clients else at_once(t) for i, t in enumerate(every)]
    last = {r: i for i, t in enumerate(every) for r in t.reads}
    spent = [[r for r in t.reads if last[r] == i and (isinstance(r, Wire) or r in between)] for i, t in enumerate(every)]

    def step(state: TrainState, batch: Mapping[str, PyTree], weight: jax.Array) -> tuple[TrainState, Info]:
        env: dict[Any, Any] = dict(together(place(places, state, batch, of_mean_one(weight))))
        for turn, function, gone in zip(every, functions, spent, strict=True):
            results = function(*[env[r] for r in turn.reads])
            for r in gone:
                del env[r]
            env.update(zip(turn.writes, results, strict=True))
        info = info_of(topology, {n.what: env[n].mean() for n in losses})
        return collect(places, apart(places, env)), info

    return step


def row(x: PyTree, number: Any, count: int) -> PyTree:
    """One client's part of what all have."""
    if isinstance(x, Packet):
        like = jax.tree.map(lambda s: jax.ShapeDtypeStruct((s.shape[0] // count, *s.shape[1:]), s.dtype), x.like)
        return Packet(row(x.payload, number, count), like)

    def cut(x):
        size = x.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(x, number * size, size)

    return jax.tree.map(cut, x)


def zeros(like: PyTree, count: int) -> PyTree:
    """Room for what every client has, given the shapes of what one has; a number of each is [count]."""

    def grown(x):
        return (count * x.shape[0], *x.shape[1:]) if x.shape else (count,)

    if isinstance(like, Packet):
        return Packet(zeros(like.payload, count), jax.tree.map(lambda x: jax.ShapeDtypeStruct(grown(x), x.dtype), like.like))
    return jax.tree.map(lambda x: jnp.zeros(grown(x), x.dtype), like)


def put(into: PyTree, x: PyTree, number: Any) -> PyTree:
    """What all have, with one client's part in its place; the inverse of `row`."""
    if isinstance(x, Packet):
        return Packet(put(into.payload, x.payload, number), into.like)

    def put_in(into, x):
        x = x if x.ndim else x[None]
        return jax.lax.dynamic_update_slice_in_dim(into, x, number * x.shape[0], 0)

    return jax.tree.map(put_in, into, x)
