"""A topology whose clients are many: each of their segments runs once for every client, on its own part of the batch.

The batch of all clients together, [clients * batch, ...], is to each of their segments, losses and links a row of batches;
to everybody else it is one large batch. So any interpreter trains many clients at once, and need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jsplit.core.base import Link, PyTree, Segment
from jsplit.core.placement import checked_mesh
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node
from jsplit.training.config import Config


def spread(
    config: Config,
    clients: Collection[str],
    count: int,
    *,
    own: bool,
    mapped: Callable = jax.vmap,
    first: Any = 0,
) -> Config:
    """The same training with `count` clients, each of them the parties `clients`.

    Args:
        config: of one client's topology.
        clients: the parties that are there once for each.
        count: how many there are.
        own: whether each has parameters and optimizers of its own, [count, ...], or all share one; their states are
            [count, ...] in both cases, and so are the memories of all links, through which each client's rows go alone.
        mapped: what runs a function once for each, as `jax.vmap` does.
        first: the place of the first of them among all clients, by which randomness differs from client to client.
    """

    def apart(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)

    def joined(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def keys(key: jax.Array | None) -> Any:
        return (
            None
            if key is None
            else jax.vmap(lambda i: jax.random.fold_in(key, i))(
                first + jnp.arange(count)
            )
        )

    def segment(one: Segment) -> Segment:
        def apply(params, state, key, *inputs, train=True):
            def run(params, state, key, inputs):
                return one.apply(params, state, key, *inputs, train=train)

            axes = 0 if own else None, 0, None if key is None else 0, 0
            value, new = mapped(run, in_axes=axes)(
                params, state, keys(key), apart(inputs)
            )
            return joined(value), new

        return replace(one, apply=apply)

    def loss(term: Loss) -> Loss:
        topology = config.topology
        kinds = [
            i if i in topology.node or i in topology.fields else i.rpartition(".")[2]
            for i in term.reads
        ]
        axes = tuple(None if kind == "params" and not own else 0 for kind in kinds)
        if set(axes) == {None}:
            return term

        def fn(*inputs):
            rows = [
                x if kind in ("params", "state") else apart(x)
                for kind, x in zip(kinds, inputs, strict=True)
            ]
            result = mapped(term.fn, in_axes=axes)(*rows)
            return joined(result) if result.ndim > 1 else result

        return replace(term, fn=fn)

    def link(one: Link) -> Link:
        def row(like):
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(
                    (x.shape[0] // count, *x.shape[1:]), x.dtype
                ),
                like,
            )

        def init(like):
            return jax.tree.map(
                lambda x: jnp.repeat(x[None], count, 0), one.init(row(like))
            )

        def encode(state, value, key):
            return jax.vmap(one.encode)(state, apart(value), keys(key))

        def decode(payload, like):
            return joined(jax.vmap(lambda p: one.decode(p, row(like)))(payload))

        return Link(init, encode, decode)

    nodes: list[Node | Loss] = []
    for n in config.topology.nodes:
        if n.party in clients:
            n = (
                replace(n, segment=segment(n.segment))
                if isinstance(n, Node)
                else loss(n)
            )
        nodes.append(n)
    links = {at: link(x) for at, x in config.links.items()}
    optimizer: Mapping[str, optax.GradientTransformation] = config.optimizer
    if own:
        optimizer = {
            p: _for_each(x) if p in clients else x for p, x in optimizer.items()
        }
    return config._replace(
        topology=Topology(nodes, config.topology.holds),
        links=links,
        optimizer=optimizer,
    )


def _for_each(one: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer for each of several sets of parameters, which lie along the first axis; of none, where there is no array."""

    def init(params):
        return (
            jax.vmap(one.init)(params) if jax.tree.leaves(params) else one.init(params)
        )

    def update(updates, state, params=None):
        return (jax.vmap(one.update) if jax.tree.leaves(updates) else one.update)(
            updates, state, params
        )

    return optax.GradientTransformation(init, update)


CLIENTS = "clients"
"""The axis of a mesh over which clients are spread."""


def clients_mesh(mesh: Any, config: Config) -> Mesh | None:
    """The mesh over whose axis `clients` many clients are spread, if there is one."""
    if mesh is None:
        return None
    if config.mesh:
        raise ValueError(
            "`mesh` spreads clients, but `trainer` has one itself, which spreads the batch of each: give one of them."
        )
    if CLIENTS not in (mesh := checked_mesh(mesh)).shape:
        raise ValueError(
            f"`mesh` must have an axis `{CLIENTS}`, it has {', '.join(map(str, mesh.shape))}."
        )
    return mesh


def clients_mapped(mapped: Callable, mesh: Mesh | None) -> Callable:
    """`mapped`, which runs a function once for each client as `jax.vmap` does, with each device running its part of them.

    Where the devices do not divide the clients, some run once more, and what that gives is dropped."""
    if mesh is None:
        return mapped

    def outer(function: Callable, in_axes: tuple) -> Callable:
        def run(*args: PyTree) -> PyTree:
            count = next(
                x.shape[0]
                for a, axis in zip(args, in_axes, strict=True)
                if axis == 0
                for x in jax.tree.leaves(a)
            )
            more = -count % mesh.shape[CLIENTS]
            rows = np.arange(count + more) % count
            specs = tuple(
                jax.P() if axis is None else jax.P(CLIENTS) for axis in in_axes
            )
            filled = (
                jax.tree.map(lambda x: x[rows], a) if axis == 0 and more else a
                for a, axis in zip(args, in_axes, strict=True)
            )
            spread = jax.shard_map(
                mapped(function, in_axes),
                mesh=mesh,
                in_specs=specs,
                out_specs=jax.P(CLIENTS),
                check_vma=False,
            )
            return jax.tree.map(lambda x: x[:count] if more else x, spread(*filled))

        return run

    return outer
