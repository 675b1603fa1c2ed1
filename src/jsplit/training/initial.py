"""The first state of every party: each segment initialised on the shapes that reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checks import first_line
from jsplit.core.keys import node_key
from jsplit.core.trees import abstract, describe, inexact_part
from jsplit.topology.nodes import Node
from jsplit.training.configure import check_batch, fields_of
from jsplit.training.step import Config, wires


def initial_state(
    config: Config,
    key: jax.Array | int,
    batch: Mapping[str, PyTree],
    *,
    shapes_only: bool = False,
) -> TrainState:
    """Every party's first state: each segment initialised on the shapes that reach it.

    Every array in it is a copy of its own, since the state is donated step by step. With `shapes_only`, values that a
    model does not have (of `nnx.eval_shape`) are zeros.

    Raises:
        ValueError: if the batch is wrong, a segment does not run on its inputs, one with parameters passes on only integers,
            or an optimizer does not run on the parameters.
    """
    topology = config.topology
    key = seed_of(key)
    size = (
        check_batch(
            topology, batch, fields_of(topology, losses=True), config.microbatches
        )
        // config.microbatches
    )
    values: dict[str, PyTree] = {
        f: example(f, batch[f], size) for f in topology.fields if f in batch
    }
    params: dict[str, dict] = {p: {} for p in topology.parties}
    state: dict[str, dict] = {p: {} for p in topology.parties}
    for n in topology.segments:
        params[n.party][n.name], state[n.party][n.name], values[n.name] = start(
            n, key, [values[i] for i in n.reads], shapes_only
        )
        if (
            n.name in topology.depends_on_params & topology.on_loss_path
            and not jax.tree.leaves(inexact_part(values[n.name]))
        ):
            raise ValueError(
                f"node `{n.name}` at `{n.party}` has parameters before it but passes on {describe(values[n.name])}: "
                "no gradient can come back."
            )
    links: dict[str, dict] = {p: {} for p in topology.parties}
    for wire in wires(topology):
        if link := config.links.get((wire.kind, wire.what)):
            value = values[wire.what]
            links[wire.sender][wire.label] = link.init(
                value if wire.kind == "activation" else inexact_part(value)
            )
    parties = {}
    for p in topology.parties:
        trained = inexact_part(
            {n: x for n, x in params[p].items() if topology.node[n].segment.trainable}
        )
        memory = first_memory(config, p, trained) if trained else ()
        parties[p] = PartyState(
            params[p], state[p], memory, links[p], key, jnp.zeros((), jnp.int32)
        )
    return jax.tree.map(lambda x: jnp.array(x, copy=True), TrainState(parties))


def seed_of(key: jax.Array | int) -> jax.Array:
    """The key itself, typed or raw, or that of a seed."""
    if hasattr(key, "dtype"):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)  # type: ignore[union-attr]
        if jnp.ndim(key) == (0 if typed else 1) and (typed or key.dtype == jnp.uint32):  # type: ignore[union-attr]
            return key  # type: ignore[return-value]
        if jnp.ndim(key):
            raise ValueError(
                f"`key` must be one PRNG key or an integer seed, got {key.dtype}{list(jnp.shape(key))}."
            )  # type: ignore[union-attr]
    try:
        return jax.random.key(index(key))  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(
            f"`key` must be a PRNG key or an integer seed, got {type(key).__name__}."
        ) from None


def example(field: str, value: PyTree, size: int) -> PyTree:
    """The shapes of a field of the batch, `size` examples of it."""
    for x in jax.tree.leaves(value):
        if (
            not isinstance(x, (jax.Array, jax.ShapeDtypeStruct))
            and np.asarray(x).dtype.kind not in "biufcV"
        ):
            raise ValueError(
                f"field `{field}` of the batch must hold numbers, got {np.asarray(x).dtype}."
            )
    if not jax.tree.leaves(value):
        raise ValueError(f"field `{field}` of the batch holds no array, got {value!r}.")
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), abstract(value)
    )


def start(
    node: Node, key: jax.Array, inputs: Sequence[PyTree], shapes_only: bool
) -> tuple[PyTree, PyTree, PyTree]:
    """First parameters and state of a node, and the shapes of its value, given those of its inputs."""
    where = f"node `{node.name}` at `{node.party}`"
    own = node_key(key, node.name, node.segment)
    try:
        zeros = [jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), i) for i in inputs]
        params, state = node.segment.init(own, *zeros)
        value, new = jax.eval_shape(
            lambda *a: node.segment.apply(*a, train=True), params, state, own, *inputs
        )
    except Exception as error:
        got = ", ".join(
            f"`{i}` {describe(x)}" for i, x in zip(node.reads, inputs, strict=True)
        )
        raise ValueError(
            f"{where} does not run on {got}: {first_line(error)}"
        ) from error
    was, now = (jax.tree.map(lambda x: str(x.dtype), abstract(x)) for x in (state, new))
    if jax.tree.structure(was) != jax.tree.structure(now) or jax.tree.leaves(
        was
    ) != jax.tree.leaves(now):
        raise ValueError(
            f"{where}: `apply` must give back a state of the structure and dtypes it got, {was}, got {now}."
        )
    if any(
        isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves((params, state))
    ):
        if not shapes_only:
            raise ValueError(
                f"{where}: its model has shapes but no values, so it can be divided and costed, but not trained."
            )
        params, state = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (params, state)
        )
    return params, state, value


def first_memory(config: Config, party: str, params: PyTree) -> PyTree:
    """The optimizer's first state, of the dtypes that it has after a step, so that no step needs another trace.

    Refuses an optimizer that needs more than gradients and parameters."""
    optimizer = config.optimizer[party]
    try:
        memory = optimizer.init(params)
        after = jax.eval_shape(
            lambda g, m, p: optimizer.update(g, m, p)[1], params, memory, params
        )
    except Exception as error:
        raise ValueError(
            f"`optimizer` of `{party}` does not run on its parameters: {first_line(error)}"
        ) from error
    return jax.tree.map(lambda x, new: jnp.asarray(x, new.dtype), memory, after)


def initial_shapes(config: Config, batch: Mapping[str, PyTree]) -> TrainState:
    """The shapes and dtypes of every party's first state. Computes nothing and allocates no weights."""
    return jax.eval_shape(
        lambda key: initial_state(config, key, batch, shapes_only=True),
        jax.eval_shape(jax.random.key, 0),
    )
