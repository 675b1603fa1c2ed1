"""A topology whose clients are many: each of their segments runs once for every client.

The batch of all clients together, [clients * batch, ...], is to each of
their segments, losses and links a row of batches; to everybody else it is
one large batch. So any interpreter trains many clients at once, and need
not know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree, Segment
from jsplit.core.frozen import divided, joined
from jsplit.core.links import Own, encode_by
from jsplit.core.paths import Path
from jsplit.rounds.client_mesh import Vmap
from jsplit.rounds.client_noise import noise_of_all, noise_of_each
from jsplit.rounds.client_receiver import receiver_of_each
from jsplit.rounds.own_optimizers import optimizer_of_each
from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node
from jsplit.training.config import Config


def vmap_clients(
    config: Config,
    clients: Collection[str],
    count: int,
    *,
    own: bool,
    vmap: Vmap = jax.vmap,
) -> Config:
    """Return the same training with `count` clients, each of them the parties `clients`.

    Args:
        config: of one client's topology.
        clients: the parties that are there once for each client.
        count: how many clients there are.
        own: whether each has parameters and optimizers of its own, [count,
            ...], or all share one. Their states are [count, ...] in both
            cases, and so are the memories of all links, through which each
            client's rows go alone.
        vmap: runs a function once for each client.

    Returns:
        The configuration of all clients, over batches of [count * batch,
        ...].
    """
    axis = _ClientAxis(count, own, vmap)
    nodes: list[Node | Loss | Metric] = []
    for node in config.topology.nodes:
        if node.party not in clients:
            nodes.append(_on_the_batch_of_all(node))
        elif isinstance(node, Node):
            nodes.append(replace(node, segment=axis.segment(node.segment)))
        elif isinstance(node, Metric):
            # No step computes it; its crossing may have a link.
            nodes.append(node)
        else:
            nodes.append(axis.loss(node, config.topology))

    optimizer = dict(config.optimizer)
    if own:
        for party in clients:
            if party in optimizer:
                optimizer[party] = optimizer_of_each(optimizer[party])

    # Every link, also those between other parties: what crosses has a part for each
    # client wherever it goes, and a link of many clients sees one of them.
    links = {at: axis.link(x) for at, x in config.links.items()}
    return config._replace(
        topology=Topology(nodes, config.topology.holds, public=config.topology.public),
        links=links,
        optimizer=optimizer,
        of_each=tuple(clients) if own else (),
    )


@dataclass(frozen=True)
class _ClientAxis:
    """Functions of one client's batch, as functions of the batch of all."""

    count: int
    own: bool
    vmap: Vmap

    def split(self, tree: PyTree) -> PyTree:
        """Divide the batch of all: [count * batch, ...] to [count, batch, ...]."""
        return jax.tree.map(lambda x: x.reshape(self.count, -1, *x.shape[1:]), tree)

    def join(self, tree: PyTree) -> PyTree:
        """Put the batches of all together, the inverse of `split`."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def row(self, like: PyTree) -> PyTree:
        """Return the shapes of one client's part of the batch of all."""

        def part(x):
            size = x.shape[0] // self.count
            return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

        return jax.tree.map(part, like)

    def repeated(self, memory: PyTree) -> PyTree:
        """Return the first memory of a link of each client, [count, ...]."""
        return jax.tree.map(lambda x: jnp.repeat(x[None], self.count, 0), memory)

    def keys(self, key: jax.Array) -> jax.Array:
        """Return a key for each client: the step's, with its place folded in."""
        places = jnp.arange(self.count)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)

    def segment(self, one: Segment) -> Segment:
        """Return a segment that runs once for each client."""

        def apply(params, state, key, *inputs, train=True):
            # What no step changes is one for all clients.
            params, frozen = _parts(one.trains, params)
            state, fixed = _parts(one.moves, state)

            def run(params, frozen, state, fixed, key, inputs):
                own = joined(params, frozen), joined(state, fixed)
                value, new = one.apply(*own, key, *inputs, train=train)
                return value, _parts(one.moves, new)[0]

            # In inference there is no key.
            axes = (
                0 if self.own else None,
                None,
                0,
                None,
                None if key is None else 0,
                0,
            )
            keys = None if key is None else self.keys(key)
            run_all = self.vmap(run, in_axes=axes)
            given = params, frozen, state, fixed, keys, self.split(inputs)
            value, new = run_all(*given)
            return self.join(value), joined(new, fixed)

        noise = one.noise and noise_of_each(one.noise, own=self.own)
        return replace(one, apply=apply, noise=noise)

    def loss(self, term: Loss, topology: Topology) -> Loss:
        """Return a loss or penalty that is computed for each client."""
        kinds = [self._kind_of_input(i, topology) for i in term.reads]
        axes = tuple(None if kind == "params" and not self.own else 0 for kind in kinds)
        if set(axes) == {None}:
            # A penalty on nothing but what all share is one number for
            # all.
            return term

        def rows(inputs):
            return [
                self._of_all(topology, i, kind, x) if kind != "value" else self.split(x)
                for i, kind, x in zip(term.reads, kinds, inputs, strict=True)
            ]

        def fn(*inputs):
            result = self.vmap(term.fn, in_axes=axes)(*rows(inputs))
            # By example it becomes that of the large batch; one number for
            # each client is left so, and its mean is taken.
            return self.join(result) if result.ndim > 1 else result

        def weighted(*inputs, weight=None):
            if weight is None:
                one = partial(term.fn, weight=None)
                result = self.vmap(one, in_axes=axes)(*rows(inputs))
                return self.join(result) if result.ndim > 1 else jnp.mean(result)
            return self._weighted(term, axes, rows(inputs), self.split(weight))

        return replace(term, fn=weighted if term.takes_weight else fn)

    def _weighted(
        self,
        term: Loss,
        axes: tuple[int | None, ...],
        rows: list[PyTree],
        weight: jax.Array,
    ) -> jax.Array:
        """Return the mean over the clients of one number each, by how much each counts.

        Args:
            term: of one client, whose function takes weights.
            axes: those of its inputs.
            rows: its inputs, of all clients.
            weight: [clients, batch], of mean 1.
        """
        share = weight.mean(1)
        counts = share > 0
        # To each its weights are of mean 1. One that takes no step has any, so that
        # nothing divides by 0.
        own = weight / jnp.where(counts, share, 1)[:, None]
        own = jnp.where(counts[:, None], own, 1)

        def one(own, *inputs):
            return term.fn(*inputs, weight=own)

        result = self.vmap(one, in_axes=(0, *axes))(own, *rows)
        if result.ndim > 1:
            # What is refused of one client is refused of all, where its values are.
            return self.join(result)
        return jnp.where(counts, share * result, 0).mean()

    def _of_all(self, topology: Topology, i: str, kind: str, tree: PyTree) -> PyTree:
        """Return parameters or a state of each client, what is one for all among it."""
        segment = topology.node[i.rpartition(".")[0]].segment
        changes = segment.trains if kind == "params" else segment.moves
        if kind == "params" and not self.own or changes is None:
            return tree
        own, fixed = divided(changes, tree)
        repeated = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (self.count, *jnp.shape(x))), fixed
        )
        return joined(own, repeated)

    def _kind_of_input(self, i: str, topology: Topology) -> str:
        """Return whether it is a `"value"`, or a node's `"params"` or `"state"`."""
        if i in topology.node or i in topology.fields:
            return "value"
        return i.rpartition(".")[2]

    def link(self, one: Link) -> Link:
        """Return a link through which each client's part goes by itself."""
        sent = _LinkOfEach(self, one)
        made = one._replace(init=sent.init, encode=sent.encode, decode=sent.decode)
        if one.receiver is not None:
            made = made._replace(receiver=receiver_of_each(self, one.receiver))
        return made if one.pull is None else made._replace(pull=sent.pull)


@dataclass(frozen=True)
class _LinkOfEach:
    """A link of all clients: one client's link, run once for each."""

    axis: _ClientAxis
    one: Link

    def init(self, like: PyTree) -> PyTree:
        return self.axis.repeated(self.one.init(self.axis.row(like)))

    def encode(
        self, state: PyTree, value: PyTree, key: jax.Array, own: Own | None = None
    ) -> tuple:
        # Keys of secrets are those of each client already.
        keys = key if key.ndim else self.axis.keys(key)
        told = dict(own or {})
        read = {n: self.axis.split(told.pop(n)) for n in self.one.reads}

        # What is left are strengths, which are of all clients or of each.
        def run(state: PyTree, value: PyTree, key: jax.Array, read: Own, rest: Own):
            return encode_by(self.one, state, value, key, {**read, **rest})

        axes = {n: 0 if jnp.ndim(x) else None for n, x in told.items()}
        # Plain `jax.vmap`, whatever runs segments: a link is too little work to spread
        # over devices.
        run_all = jax.vmap(run, in_axes=(0, 0, 0, 0, axes))
        return run_all(state, self.axis.split(value), keys, read, told)

    def decode(self, payload: PyTree, like: PyTree) -> PyTree:
        # Shapes cannot be mapped over, so `like` is closed over.
        one_row = self.axis.row(like)
        values = jax.vmap(lambda p: self.one.decode(p, one_row))(payload)
        return self.axis.join(values)

    def pull(self, value: PyTree, cotangent: PyTree, key: jax.Array) -> PyTree:
        assert self.one.pull is not None  # else none is asked for
        keys = key if key.ndim else self.axis.keys(key)
        split = self.axis.split
        return self.axis.join(
            jax.vmap(self.one.pull)(split(value), split(cotangent), keys)
        )


def _parts(changes: Callable[[Path], bool] | None, tree: PyTree) -> list[PyTree]:
    """Return what a step may change of parameters or a state, and the rest."""
    if changes is None:
        return [tree, jax.tree.map(lambda _: None, tree)]
    return [*divided(changes, tree)]


def _on_the_batch_of_all(node: Node | Loss | Metric) -> Node | Loss | Metric:
    """A node of a party that is there once, whose secrets are one for each client."""
    if not isinstance(node, Node) or node.segment.noise is None:
        return node
    noise = noise_of_all(node.segment.noise)
    return replace(node, segment=replace(node.segment, noise=noise))
