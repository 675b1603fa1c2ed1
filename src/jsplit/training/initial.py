"""The first state of every party: each segment initialised on the shapes that reach it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from operator import index
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checks import shown
from jsplit.core.frozen import trained_part
from jsplit.core.keys import is_key, typed_key
from jsplit.core.loans import lent_to
from jsplit.core.secret_keys import drawn, shape_of_secret
from jsplit.core.trees import abstract, as_arrays, describe, inexact_part
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.configure import check_batch, owners
from jsplit.training.copies import copied
from jsplit.training.crossing import secret_senders
from jsplit.training.first_links import first_links
from jsplit.training.first_node import first_of_node
from jsplit.training.optimizers import first_memory_of
from jsplit.training.own_reads import training_fields
from jsplit.training.raw_crossings import refuse_raw
from jsplit.training.strengths import first_strengths
from jsplit.training.unseen_loss import refuse_seen_loss
from jsplit.training.update import knows_loss


def initial_state(
    config: Config,
    key: jax.Array | int,
    batch: Mapping[str, PyTree],
    *,
    shapes_only: bool = False,
) -> TrainState:
    """The first state of all parties.

    Args:
        config: of the training.
        key: a PRNG key or a seed.
        batch: fields, [batch, ...] each, of which only shapes matter.
        shapes_only: whether a model without values (of
            `nnx.eval_shape`) is accepted, as zeros.

    Returns:
        A state at step 0. Every array in it is a copy of its own, but for
        those that no step changes, which may be the model's.

    Raises:
        ValueError: if the batch is wrong, a segment does not run on its
            inputs, one with parameters before it passes on only
            integers, a raw field that is not public would cross, or an
            optimizer does not run on the parameters.
    """
    topology, key, batch = config.topology, seed_of(key), as_arrays(batch)
    needed = training_fields(config)
    size = check_batch(topology, batch, needed, config.microbatches)
    size //= config.microbatches
    values = {f: example(f, batch[f], size) for f in topology.fields if f in batch}
    trained = topology.depends_on_params & topology.on_loss_path

    def check(node: Node, value: PyTree) -> None:
        if node.name in trained and not jax.tree.leaves(inexact_part(value)):
            raise ValueError(
                f"node `{node.name}` at `{node.party}` has parameters before it but "
                f"passes on {describe(value)}: no gradient can come back."
            )

    parties = topology.parties
    states = first_states(config, parties, key, values, check, shapes_only=shapes_only)
    # What is asked of shapes alone, as a view of what leaks, may be of what is refused.
    if not shapes_only:
        refuse_raw(config, states, values)
    return TrainState(states)


def first_states(
    config: Config,
    parties: Collection[str],
    key: jax.Array,
    values: dict[str, PyTree],
    check: Callable[[Node, PyTree], None],
    *,
    shapes_only: bool = False,
) -> dict[str, PartyState]:
    """The first state of some parties.

    Args:
        config: of the training.
        parties: whose state it is; a party on its own machine makes its
            own alone.
        key: the key that all have agreed on.
        values: shapes of fields, and of values that other parties
            compute; those of the parties' own nodes are put there.
        check: what a node's value must pass, given its shapes, before
            others read it.
        shapes_only: whether a model without values is accepted, as
            zeros.

    Returns:
        By party, its first state, without its secret. Every array in it is
        a copy of its own, but for those that no step changes.
    """
    topology = config.topology
    params: dict[str, dict[str, PyTree]] = {p: {} for p in parties}
    state: dict[str, dict[str, PyTree]] = {p: {} for p in parties}
    for n in topology.segments:
        if n.party in params:
            inputs = [values[i] for i in n.reads]
            # Whoever lends comes before who borrows.
            lent = lent_to(topology.loans, n.name, params[n.party])
            own, statistics, value = first_of_node(n, key, inputs, lent, shapes_only)
            check(n, value)
            params[n.party][n.name], state[n.party][n.name] = own, statistics
            values[n.name] = value

    links = first_links(config, parties, values)
    found = {}
    for p in parties:
        nodes = {
            n: trained_part(topology.node[n].segment, x)
            for n, x in params[p].items()
            if topology.node[n].segment.trainable
        }
        memory = first_memory(config, p, inexact_part(nodes)) if nodes else ()
        step = jnp.zeros((), jnp.int32)
        found[p] = PartyState(
            params[p],
            state[p],
            memory,
            links[p],
            key,
            step,
            strengths=first_strengths(config, p),
        )
    # A step may use up its state: no two parts of it may share a buffer,
    # nor one with the user's model or key.
    # What no step changes is used up by none: a base may be too large to be there twice.
    return copied(config, found)


def with_drawn_secrets(
    config: Config, states: Mapping[str, PartyState]
) -> dict[str, PartyState]:
    """First states with the secret keys of those that need one, drawn from the system.

    Apart from all else of a first state, which is a function of the agreed key.
    """
    drawing = secret_senders(config)
    return {
        p: own._replace(secret=drawn()) if p in drawing else own
        for p, own in states.items()
    }


def seed_of(key: jax.Array | int) -> jax.Array:
    """A typed key: the key itself, typed or raw, or that of a seed.

    Raises:
        ValueError: if it is neither a key nor an integer.
    """
    if isinstance(key, (jax.Array, np.ndarray, np.generic)):
        typed = is_key(key)
        # A raw key is a row of uint32; a scalar of any integer type is
        # a seed.
        if jnp.ndim(key) == (0 if typed else 1) and (typed or key.dtype == jnp.uint32):
            # Typed from here on: the words alone do not say which
            # implementation draws from them, in a checkpoint either. Those
            # of no implementation are no key.
            with suppress(TypeError, ValueError):
                return typed_key(cast(jax.Array, key))
        if jnp.ndim(key):
            # A structured dtype lists the names of a table.
            kind = "a structure" if getattr(key.dtype, "fields", None) else key.dtype
            got = f"{kind}{list(jnp.shape(key))}"
            raise ValueError(
                f"`key` must be one PRNG key or an integer seed, got {got}."
            )
    try:
        seed = index(cast(int, key))
        # JAX would take the last 32 bits of a larger one, without a word.
        if isinstance(key, (bool, np.bool_)) or not -(2**31) <= seed < 2**32:
            raise ValueError(
                "`key` must be a PRNG key or an integer seed from -2**31 to 2**32 - 1, "
                f"got {shown(key)}."
            )
        return jax.random.key(seed)
    except TypeError:
        raise ValueError(
            f"`key` must be a PRNG key or an integer seed, got {type(key).__name__}."
        ) from None


def example(field: str, value: PyTree, size: int) -> PyTree:
    """The shapes of a field of the batch, `size` examples of it.

    Raises:
        ValueError: if it holds no array, or other things than numbers.
    """
    value = as_arrays({field: value})[field]
    if not jax.tree.leaves(value):
        raise ValueError(
            f"field `{field}` of the batch holds no array, got {type(value).__name__}."
        )
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), abstract(value)
    )


def first_memory(config: Config, party: str, params: PyTree) -> PyTree:
    """The first state of a party's optimizer.

    Args:
        config: of the training.
        party: whose optimizer.
        params: the floating leaves of its parameters, by node.

    Returns:
        The state, of the dtypes that it has after a step, so that no
        step needs another trace.

    Raises:
        ValueError: if the optimizer needs more than gradients and
            parameters, or reads the loss where gradients have noise.
    """
    optimizer, has_loss = config.optimizer[party], knows_loss(config, party)
    several = len(owners(config.topology)) > 1
    found = first_memory_of(
        *(party, optimizer, params, config.norms),
        has_loss=has_loss,
        of_several=several,
    )
    if has_loss:
        refuse_seen_loss(config, party, optimizer, params)
    return found


def initial_shapes(config: Config, batch: Mapping[str, PyTree]) -> TrainState:
    """The shapes and dtypes of every party's first state.

    Computes nothing and allocates no weights.
    """
    shapes = jax.eval_shape(
        lambda key: initial_state(config, key, batch, shapes_only=True),
        jax.eval_shape(jax.random.key, 0),
    )
    # Of a secret too only the shape: nothing is drawn for a count of bytes.
    parties = dict(shapes.parties)
    for p in secret_senders(config):
        parties[p] = parties[p]._replace(secret=shape_of_secret())
    return TrainState(parties)
