"""What every interpreter of a topology shares: checked arguments, the first state, checked batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.core.base import Info, Link, PartyState, PyTree, TrainState, batch_of, node_key, positive, reason, said, shapes_of
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.training.losses import weight_of
from jsplit.training.meshes import meshes_of
from jsplit.training.step import Config, training_ops, wires
from jsplit.training.update import SUM, accumulate_ops
from jsplit.training.vjp import floating
from jsplit.training.walk import Name, execute

Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]
Links = Mapping[str, Link | tuple[Link | None, Link | None]]


def configure(
    topology: Topology, optimizer: Optimizers, links: Links | None, backward: str, microbatches: int, mesh: Any = None
) -> Config:  # fmt: skip
    """The arguments of an interpreter, checked and spelled out.

    Raises:
        ValueError: naming the culprit.
    """
    if not isinstance(topology, Topology):
        raise ValueError(f"`topology` must be a Topology, got {type(topology).__name__}.")
    if not any(x.weight for x in topology.losses):
        raise ValueError("`topology` has no loss, so there is nothing to train for; add a jsplit.Loss.")
    if backward not in ("residuals", "recompute"):
        raise ValueError(f'`backward` must be "residuals" or "recompute", got {backward!r}.')
    microbatches = positive("microbatches", microbatches)
    owners = dict.fromkeys(n.party for n in topology.segments if n.segment.trainable)
    if not isinstance(optimizer, Mapping):
        optimizer = dict.fromkeys(owners, optimizer)
    for party in optimizer:
        if party not in topology.parties:
            raise ValueError(f"`optimizer` names the party `{party}`, which is not one of {', '.join(topology.parties)}.")
    for party in owners:
        if party not in optimizer:
            raise ValueError(f"`optimizer` has none for the party `{party}`, which owns parameters.")
        if not callable(getattr(optimizer[party], "init", None)) or not callable(getattr(optimizer[party], "update", None)):
            raise ValueError(f"`optimizer` of `{party}` must be an optax optimizer, got {type(optimizer[party]).__name__}.")
    return Config(topology, optimizer, both_ways(topology, links), backward, microbatches, meshes_of(topology, mesh))


def both_ways(topology: Topology, links: Links | None) -> dict[tuple[str, str], Link]:
    crossing = {c.name for c in topology.crossings}
    found, links = {}, {} if links is None else links
    if not isinstance(links, Mapping) or isinstance(links, Link):
        raise ValueError(f"`links` must be a dictionary by the names of values that cross, got {type(links).__name__}.")
    for name, link in links.items():
        if name not in crossing:
            there = ", ".join(sorted(crossing)) or "none"
            raise ValueError(f"`links` names `{name}`, which does not cross; there are {there}.")
        pair = (link, link) if isinstance(link, Link) else tuple(link) if isinstance(link, (tuple, list)) else ()
        if len(pair) != 2 or not all(x is None or isinstance(x, Link) for x in pair):
            raise ValueError(f"`links` of `{name}` must be a Link or a pair of them (activation, cotangent), got {link!r}.")
        found.update({(kind, name): x for kind, x in zip(("activation", "cotangent"), pair, strict=True) if x is not None})
    return found


def initial_state(
    config: Config, key: jax.Array | int, batch: Mapping[str, PyTree], *, shapes_only: bool = False
) -> TrainState:  # fmt: skip
    """Every party's first state: each segment initialised on the shapes that reach it.

    Every array in it is a copy of its own, since the state is donated step by step. With `shapes_only`, values that a
    model does not have (of `nnx.eval_shape`) are zeros.

    Raises:
        ValueError: if the batch is wrong, a segment does not run on its inputs, one with parameters passes on only integers,
            or an optimizer does not run on the parameters.
    """
    topology = config.topology
    key = seed_of(key)
    size = check_batch(topology, batch, fields_of(topology, losses=True), config.microbatches) // config.microbatches
    values: dict[str, PyTree] = {f: example(f, batch[f], size) for f in topology.fields if f in batch}
    params: dict[str, dict] = {p: {} for p in topology.parties}
    state: dict[str, dict] = {p: {} for p in topology.parties}
    for n in topology.segments:
        params[n.party][n.name], state[n.party][n.name], values[n.name] = start(
            n, key, [values[i] for i in n.reads], shapes_only
        )
        if n.name in topology.trained & topology.objective and not jax.tree.leaves(floating(values[n.name])):
            raise ValueError(
                f"node `{n.name}` at `{n.party}` has parameters before it but passes on {said(values[n.name])}: "
                "no gradient can come back."
            )
    links: dict[str, dict] = {p: {} for p in topology.parties}
    for wire in wires(topology):
        if link := config.links.get((wire.kind, wire.what)):
            value = values[wire.what]
            links[wire.sender][wire.label] = link.init(value if wire.kind == "activation" else floating(value))
    parties = {}
    for p in topology.parties:
        trained = floating({n: x for n, x in params[p].items() if topology.node[n].segment.trainable})
        memory = first_memory(config, p, trained) if trained else ()
        parties[p] = PartyState(params[p], state[p], memory, links[p], key, jnp.zeros((), jnp.int32))
    return jax.tree.map(lambda x: jnp.array(x, copy=True), TrainState(parties))


def seed_of(key: jax.Array | int) -> jax.Array:
    """The key itself, typed or raw, or that of a seed."""
    if hasattr(key, "dtype"):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)  # type: ignore[union-attr]
        if jnp.ndim(key) == (0 if typed else 1) and (typed or key.dtype == jnp.uint32):  # type: ignore[union-attr]
            return key  # type: ignore[return-value]
        if jnp.ndim(key):
            raise ValueError(f"`key` must be one PRNG key or an integer seed, got {key.dtype}{list(jnp.shape(key))}.")  # type: ignore[union-attr]
    try:
        return jax.random.key(index(key))  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"`key` must be a PRNG key or an integer seed, got {type(key).__name__}.") from None


def example(field: str, value: PyTree, size: int) -> PyTree:
    """The shapes of a field of the batch, `size` examples of it."""
    for x in jax.tree.leaves(value):
        if not isinstance(x, (jax.Array, jax.ShapeDtypeStruct)) and np.asarray(x).dtype.kind not in "biufcV":
            raise ValueError(f"field `{field}` of the batch must hold numbers, got {np.asarray(x).dtype}.")
    if not jax.tree.leaves(value):
        raise ValueError(f"field `{field}` of the batch holds no array, got {value!r}.")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), shapes_of(value))


def start(node: Node, key: jax.Array, inputs: Sequence[PyTree], shapes_only: bool) -> tuple[PyTree, PyTree, PyTree]:
    """First parameters and state of a node, and the shapes of its value, given those of its inputs."""
    where = f"node `{node.name}` at `{node.party}`"
    own = node_key(key, node.name, node.segment)
    try:
        zeros = [jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), i) for i in inputs]
        params, state = node.segment.init(own, *zeros)
        value, new = jax.eval_shape(lambda *a: node.segment.apply(*a, train=True), params, state, own, *inputs)
    except Exception as error:
        got = ", ".join(f"`{i}` {said(x)}" for i, x in zip(node.reads, inputs, strict=True))
        raise ValueError(f"{where} does not run on {got}: {reason(error)}") from error
    was, now = (jax.tree.map(lambda x: str(x.dtype), shapes_of(x)) for x in (state, new))
    if jax.tree.structure(was) != jax.tree.structure(now) or jax.tree.leaves(was) != jax.tree.leaves(now):
        raise ValueError(f"{where}: `apply` must give back a state of the structure and dtypes it got, {was}, got {now}.")
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves((params, state))):
        if not shapes_only:
            raise ValueError(f"{where}: its model has shapes but no values, so it can be divided and costed, but not trained.")
        params, state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, state))
    return params, state, value


def first_memory(config: Config, party: str, params: PyTree) -> PyTree:
    """The optimizer's first state, of the dtypes that it has after a step, so that no step needs another trace.

    Refuses an optimizer that needs more than gradients and parameters."""
    optimizer = config.optimizer[party]
    try:
        memory = optimizer.init(params)
        after = jax.eval_shape(lambda g, m, p: optimizer.update(g, m, p)[1], params, memory, params)
    except Exception as error:
        raise ValueError(f"`optimizer` of `{party}` does not run on its parameters: {reason(error)}") from error
    return jax.tree.map(lambda x, new: jnp.asarray(x, new.dtype), memory, after)


def initial_shapes(config: Config, batch: Mapping[str, PyTree]) -> TrainState:
    """The shapes and dtypes of every party's first state. Computes nothing and allocates no weights."""
    return jax.eval_shape(lambda key: initial_state(config, key, batch, shapes_only=True), jax.eval_shape(jax.random.key, 0))


def check_batch(
    topology: Topology, batch: Mapping[str, PyTree], needed: set[str], microbatches: int = 1, weight: Any = None
) -> int:  # fmt: skip
    """The batch size, after checking that every field is there and all have the same, positive one."""
    if not isinstance(batch, Mapping):
        raise ValueError(f"the batch must be a dictionary of fields, got {type(batch).__name__}.")
    if needed - batch.keys():
        missing = sorted(needed - batch.keys())[0]
        raise ValueError(f"the batch lacks the field `{missing}`; it has {', '.join(map(str, batch)) or 'none'}.")
    for name in batch:
        if name not in topology.fields:
            raise ValueError(f"the batch has a field `{name}`, which no party holds; there are {', '.join(topology.fields)}.")
    size = batch_of(batch)
    if size % microbatches:
        raise ValueError(f"`microbatches` is {microbatches}, which does not divide the batch of {size} examples.")
    if weight is not None and jnp.shape(weight) != (size,):
        raise ValueError(f"`weight` must hold one number for each of the {size} examples, got shape {jnp.shape(weight)}.")
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


def place(
    places: Mapping[str, Places], state: TrainState, batch: Mapping[str, PyTree], weight: jax.Array | None = None
) -> Memories:  # fmt: skip
    """The memory of each party at the start of a step: its state, its fields, and how much each example counts."""
    memories: Memories = {}
    if state.parties.keys() != places.keys():
        raise ValueError(f"the state is of another trainer: it has the parties {list(state.parties)}, expected {list(places)}.")
    for party, at in places.items():
        own = state.parties[party]
        for what, names, kept in (("nodes", at.params, own.params), ("links", at.links, own.links)):
            if names.keys() != kept.keys():
                raise ValueError(
                    f"the state of `{party}` is of another trainer: it has the {what} {list(kept)}, expected {list(names)}."
                )
        memory = {at.optimizer: own.optimizer, at.key: own.key, at.step: own.step, weight_of(party): weight}
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
    first, *others = [losses[x.name] if x.weight == 1 else losses[x.name] * x.weight for x in topology.losses if x.weight]
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
    wide = [jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), x) for x in shapes]
    return dict(zip(names, wide, strict=True))
