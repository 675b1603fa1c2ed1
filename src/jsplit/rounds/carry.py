"""What the program of a round takes and carries: the state of all clients, and the round as arrays.

Records that JAX traces, and sums of losses over the examples of a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Info, PyTree
from jsplit.core.finite import Finite, Watched
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.losses import info_of
from jsplit.training.nonfinite import all_measured, all_watched, watched_params
from jsplit.training.strengths import in_store, weight_names
from jsplit.training.walk import Store

# NumPy where a round is drawn, JAX inside the program that runs it.
Array = TypeVar("Array", np.ndarray, jax.Array)


class Kept(NamedTuple):
    """What of a state no round changes. It is no part of what a program may use up.

    Attributes:
        key: the key that all have agreed on. It never changes, and a compiled program
            hands typed keys back slowly.
        frozen: of parameters and states what no step changes, by name; one for all
            clients.
    """

    key: jax.Array
    frozen: Store


class RoundCarry(NamedTuple):
    """What goes from round to round.

    Attributes:
        store: the state of every party; what is each client's own has a
            leading axis [clients].
        step: how many steps were taken, int32.
        server: by party, the memory of the optimizer that applies
            averages.
    """

    store: Store
    step: jax.Array
    server: Mapping[str, PyTree]


class RoundArrays(NamedTuple, Generic[Array]):
    """The arrays of a `Round`, filled up with clients that take no step to whole groups.

    Attributes:
        reads: the records read, int32 [K, S, B].
        weight: how much each counts, float32 [K, S, B], or of each its entries,
            [K, S, B, time].
        client: which clients take part, int32 [K]; what fills up has the
            number of a client that there is not.
        steps: how many steps each takes, int32 [K].
        share: its weight in an average, float32 [K].
        before: how many steps the clients before it take, int32 [K].
    """

    reads: Array
    weight: Array
    client: Array
    steps: Array
    share: Array
    before: Array


def sum_of_records(weight: jax.Array, axes: int) -> jax.Array:
    """How much all records count together, along all but the first `axes` axes."""
    return weight.reshape(*weight.shape[:axes], -1).sum(axes)


class LossSums(NamedTuple):
    """Sums over examples of each loss, and what of the steps so far was not finite.

    Attributes:
        losses: by name, the sums.
        examples: how many examples they were.
        flags: by party, whether each value was finite in all steps, bool
            [values]; none where nobody looks.
        bad: the number of the first step in which one was not, int32; 0:
            none.
    """

    losses: dict[str, jax.Array]
    examples: jax.Array
    flags: dict[str, jax.Array]
    bad: jax.Array


def looked_at(config: Config, training: bool, at_end: bool) -> Watched:
    """Return the names of the flags of a round: of what steps leave, or losses alone.

    With `at_end` those of parameters are not among them.
    """
    if not training:
        return all_measured(config)
    names = all_watched(config)
    if not at_end:
        return names
    by_steps = _places_of_steps(config)
    return tuple((p, tuple(of[k] for k in by_steps[p])) for p, of in names)


def _places_of_steps(config: Config) -> dict[str, list[int]]:
    """By party, the places of the flags that are not of parameters."""
    return {
        party: [k for k, name in enumerate(names) if name is None]
        for party, names in watched_params(config).items()
    }


def zero_losses(
    config: Config, training: bool = True, at_end: bool = False
) -> LossSums:
    """Return the sums before the first example."""
    dtype = jnp.result_type(float)
    # Each zero is an array of its own, since they are donated step by
    # step.
    losses = {x.name: jnp.zeros((), dtype) for x in config.topology.losses}
    names = looked_at(config, training, at_end)
    flags = {p: jnp.ones(len(of), bool) for p, of in names}
    return LossSums(losses, jnp.zeros((), dtype), flags, jnp.zeros((), jnp.int32))


def add_losses(
    sums: LossSums, losses: Mapping[str, jax.Array], count: jax.Array
) -> LossSums:
    """Return the sums after a batch of `count` examples with these mean losses."""
    new = {}
    for name, total in sums.losses.items():
        # In the dtype of the sum: a loss in half precision would stop
        # growing.
        new[name] = total + losses[name].astype(total.dtype) * count
    return sums._replace(losses=new, examples=sums.examples + count)


def add_step(
    config: Config,
    sums: LossSums,
    info: Info,
    count: jax.Array,
    step: jax.Array,
    at_end: bool = False,
) -> LossSums:
    """Return the sums after a step.

    Args:
        config: of the trainer.
        sums: those before it.
        info: of the step.
        count: how many examples it had.
        step: its number, counted from 1.
        at_end: whether parameters are looked at after the round alone.
    """
    losses, finite = info.losses, info.finite
    if config.nonfinite == "skip" and info.finite is not None:
        # A step that was left out has a loss of nothing.
        kept = info.finite.all()
        losses = {n: jnp.where(kept, x, 0) for n, x in losses.items()}
        count = jnp.where(kept, count, 0)
    if at_end and finite is not None:
        # What is not read of a program is not computed.
        places = _places_of_steps(config)
        flags = {p: _picked(x, places[p]) for p, x in finite.flags.items()}
        finite = Finite(flags, looked_at(config, True, at_end))
    return add_flags(add_losses(sums, losses, count), finite, step)


def _picked(flags: jax.Array, places: list[int]) -> jax.Array:
    return jnp.stack([flags[k] for k in places]) if places else jnp.ones(0, bool)


def add_flags(sums: LossSums, finite: Finite | None, step: jax.Array) -> LossSums:
    """Return the sums after a step that left these flags, whose number this is."""
    if finite is None:
        return sums
    flags = {p: x & finite.flags[p] for p, x in sums.flags.items()}
    # In the dtype of the carry, also where numbers are of 64 bits.
    first = jnp.where(finite.all(), 0, step).astype(sums.bad.dtype)
    return sums._replace(flags=flags, bad=jnp.where(sums.bad > 0, sums.bad, first))


def info_of_round(config: Config, sums: LossSums, store: Store) -> RoundInfo:
    """Return the mean losses, from sums by client, [K], or of all together, [].

    Args:
        config: of the trainer.
        sums: of losses.
        store: with the strengths that are weights, [K] where each client has its own.
    """
    # Sums first, then one division: a client counts by its examples, and a
    # client without any adds nothing.
    losses = {n: x.sum() / sums.examples.sum() for n, x in sums.losses.items()}
    each = {n: x / sums.examples for n, x in sums.losses.items()}
    terms, weights = dict(losses), in_store(config.topology, store)
    for x in config.topology.losses:
        for name in weight_names(x):
            if store[name].ndim:
                # Each client's loss times the client's own strength.
                weighted = (sums.losses[x.name] * store[name]).sum()
                terms[x.name] = weighted / sums.examples.sum()
                weights[name] = jnp.ones(())
    loss = info_of(config.topology, terms, weights).loss
    return RoundInfo(loss, losses, each, sums.examples)


def finite_of_round(
    config: Config, sums: LossSums, training: bool = True, at_end: bool = False
) -> Finite | None:
    """Return what of a round was not finite, from sums by client or of all together."""
    names = looked_at(config, training, at_end)
    if not names:
        return None
    # A party may look at nothing, so nothing is reshaped by how much it looks at.
    found = ((p, sums.flags[p]) for p, _ in names)
    flags = {p: x.all(axis=tuple(range(x.ndim - 1))) for p, x in found}
    last = jnp.iinfo(jnp.int32).max
    bad = jnp.where(sums.bad > 0, sums.bad, last).min()
    return Finite(flags, names, jnp.where(bad == last, 0, bad))


def rows_of(tree: PyTree, where: jax.Array | int) -> PyTree:
    """Return every array of a tree, indexed along its first axis by `where`."""
    return jax.tree.map(lambda x: x[where], tree)


def put_rows(tree: PyTree, where: jax.Array, rows: PyTree) -> PyTree:
    """Return the tree with `rows` in the places `where` along the first axis of its arrays.

    This is the inverse of `rows_of`.
    """

    def put(x: jax.Array, new: jax.Array) -> jax.Array:
        # Clients that only fill up a group have a place beyond the end, so
        # what they would write is dropped.
        return x.at[where].set(new, mode="drop")

    return jax.tree.map(put, tree, rows)
