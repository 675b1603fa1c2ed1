"""What every interpreter of a topology shares: checked arguments, the first state, checked batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jsplit.base import Info, Link, PartyState, PyTree, TrainState, batch_of, node_key, shapes_of
from jsplit.step import SUM, Config, Name, accumulate_ops, execute, inexact, training_ops, wires
from jsplit.topology import Node, Topology

Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]
Links = Mapping[str, Link | tuple[Link | None, Link | None]]


def configure(topology: Topology, optimizer: Optimizers, links: Links | None, backward: str, microbatches: int) -> Config:
    """The arguments of an interpreter, checked and spelled out.

    Raises:
        ValueError: naming the culprit.
    """
    if not isinstance(topology, Topology):
        raise ValueError(f"`topology` must be a Topology, got {type(topology).__name__}.")
    if not topology.losses:
        raise ValueError("`topology` has no loss, so there is nothing to train for; add a jsplit.Loss.")
    if backward not in ("residuals", "recompute"):
        raise ValueError(f'`backward` must be "residuals" or "recompute", got {backward!r}.')
    if not isinstance(microbatches, int) or microbatches < 1:
        raise ValueError(f"`microbatches` must be a positive integer, got {microbatches!r}.")
    owners = dict.fromkeys(n.party for n in topology.segments if n.segment.trainable)
    if not isinstance(optimizer, Mapping):
        optimizer = dict.fromkeys(owners, optimizer)
    for party in optimizer:
        if party not in topology.parties:
            raise ValueError(f"`optimizer` names the party `{party}`, which is not one of {', '.join(topology.parties)}.")
    for party in owners:
        if party not in optimizer:
            raise ValueError(f"`optimizer` has none for the party `{party}`, which owns parameters.")
        if not hasattr(optimizer[party], "update"):
            raise ValueError(f"`optimizer` of `{party}` must be an optax optimizer, got {type(optimizer[party]).__name__}.")
    return Config(topology, optimizer, both_ways(topology, links or {}), backward, microbatches)


def both_ways(topology: Topology, links: Links) -> dict[tuple[str, str], Link]:
    crossing = {c.name for c in topology.crossings}
    found = {}
    for name, link in links.items():
        if name not in crossing:
            there = ", ".join(sorted(crossing)) or "none"
            raise ValueError(f"`links` names `{name}`, which does not cross; there are {there}.")
        pair = (link, link) if isinstance(link, Link) else tuple(link) if isinstance(link, (tuple, list)) else ()
        if len(pair) != 2 or not all(x is None or isinstance(x, Link) for x in pair):
            raise ValueError(f"`links` of `{name}` must be a Link or a pair of them (activation, cotangent), got {link!r}.")
        found.update({(kind, name): x for kind, x in zip(("activation", "cotangent"), pair, strict=True) if x is not None})
    return found


def initial_state(config: Config, key: jax.Array | int, batch: Mapping[str, PyTree]) -> TrainState:
    """Every party's first state: each segment initialised on the shapes that reach it.

    Raises:
        ValueError: if the batch is wrong, or a segment with parameters passes on only integers.
    """
    topology = config.topology
    key = jax.random.key(key) if isinstance(key, int) else key
    check_batch(topology, batch, fields_of(topology, losses=True), config.microbatches)
    values: dict[str, PyTree] = {f: shapes_of(batch[f]) for f in topology.fields if f in batch}
    params: dict[str, dict] = {p: {} for p in topology.parties}
    state: dict[str, dict] = {p: {} for p in topology.parties}
    for n in topology.segments:
        own = node_key(key, n.name, n.segment)
        inputs = [jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), values[i]) for i in n.reads]
        first = jax.tree.map(partial(fresh, n, isinstance(key, Tracer)), n.segment.init(own, *inputs))
        params[n.party][n.name], state[n.party][n.name] = first
        values[n.name] = jax.eval_shape(lambda *a, n=n: n.segment.apply(*a)[0], *first, own, *inputs)
        if n.name in topology.trained & topology.objective and not inexact(values[n.name]).leaves:
            dtypes = ", ".join(sorted({str(x.dtype) for x in jax.tree.leaves(values[n.name])})) or "nothing"
            raise ValueError(
                f"node `{n.name}` at `{n.party}` has parameters before it but passes on {dtypes}: no gradient can come back."
            )
    trained = {p: {n: x for n, x in params[p].items() if topology.node[n].segment.trainable} for p in topology.parties}
    links: dict[str, dict] = {p: {} for p in topology.parties}
    for wire in wires(topology):
        if link := config.links.get((wire.kind, wire.what)):
            like = values[wire.what] if wire.kind == "activation" else inexact(values[wire.what]).leaves
            links[wire.sender][wire.label] = link.init(like)
    return TrainState({
        p: PartyState(
            params[p], state[p], config.optimizer[p].init(trained[p]) if trained[p] else (), links[p],
            jnp.array(key, copy=True), jnp.zeros((), jnp.int32),
        )
        for p in topology.parties
    })  # fmt: skip


def fresh(node: Node, shapes_only: bool, x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """A first value as a copy: the state is donated step by step, and the array may be the user's own."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return jnp.array(x, copy=True)
    if not shapes_only:
        raise ValueError(
            f"node `{node.name}` at `{node.party}`: its model has shapes but no values (of `nnx.eval_shape`), so it can be "
            "divided and costed, but not trained."
        )
    return jnp.zeros(x.shape, x.dtype)


def initial_shapes(config: Config, batch: Mapping[str, PyTree]) -> TrainState:
    """The shapes and dtypes of every party's first state. Computes nothing and allocates no weights."""
    return jax.eval_shape(lambda key: initial_state(config, key, batch), jax.eval_shape(jax.random.key, 0))


def check_batch(topology: Topology, batch: Mapping[str, PyTree], needed: set[str], microbatches: int = 1) -> int:
    """The batch size, after checking that every field is there and all have the same, positive one."""
    if needed - batch.keys():
        missing = sorted(needed - batch.keys())[0]
        raise ValueError(f"the batch lacks the field `{missing}`; it has {', '.join(map(str, batch)) or 'none'}.")
    for name in batch:
        if name not in topology.fields:
            raise ValueError(f"the batch has a field `{name}`, which no party holds; there are {', '.join(topology.fields)}.")
    size = batch_of(batch)
    if size % microbatches:
        raise ValueError(f"`microbatches` is {microbatches}, which does not divide the batch of {size} examples.")
    return size


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
            {n: Name(p, "params", n) for n in own}, {n: Name(p, "state", n) for n in own}, Name(p, "optimizer"),
            {w.label: Name(p, "link", w.label) for w in linked if w.sender == p}, Name(p, "key"), Name(p, "step"),
            {f: Name(p, "value", f) for f in topology.holds.get(p, ())},
        )  # fmt: skip
    return found


Memories = dict[str, dict]


def place(places: Mapping[str, Places], state: TrainState, batch: Mapping[str, PyTree]) -> Memories:
    """The memory of each party at the start of a step: its state, and the fields that it holds."""
    memories: Memories = {}
    for party, at in places.items():
        own = state.parties[party]
        memory = {at.optimizer: own.optimizer, at.key: own.key, at.step: own.step}
        for names, kept in ((at.params, own.params), (at.state, own.state), (at.links, own.links)):
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
        params, state, links = ({n: memory[name] for n, name in names.items()} for names in (at.params, at.state, at.links))
        parties[party] = PartyState(params, state, memory[at.optimizer], links, memory[at.key], memory[at.step])
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


def info_of(topology: Topology, losses: Mapping[str, jax.Array]) -> Info:
    """The losses, and their weighted sum."""
    first, *others = [losses[x.name] if x.weight == 1 else losses[x.name] * x.weight for x in topology.losses]
    return Info(sum(others, first), dict(losses))


def fields_of(topology: Topology, *, losses: bool) -> set[str]:
    """The fields that the nodes, and the losses if asked, read."""
    readers = (*topology.segments, *topology.losses) if losses else topology.segments
    return {i for n in readers for i in n.reads if i in topology.fields}


def zero_sums(config: Config, env: Mapping[Name, PyTree]) -> dict[Name, PyTree]:
    """Zeros for the sums over micro-batches, given a memory with one micro-batch in it. Computes nothing."""
    names = [w for op in accumulate_ops(config) for w in op.writes if isinstance(w, Name)]

    def sums(env):
        memory = {**env, **{Name(p, "micro"): jnp.int32(0) for p in config.topology.parties}}
        execute(training_ops(config), memory)
        return [memory[n._replace(kind=n.kind.removeprefix(SUM))] for n in names]

    shapes = jax.eval_shape(sums, dict(env))
    return {n: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), x) for n, x in zip(names, shapes, strict=True)}
