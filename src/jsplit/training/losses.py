"""A loss as operations at its party: its value, and the cotangents of what it reads.

The mean over the examples counts, each as often as its weight says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import Info, PyTree
from jsplit.core.checks import first_line
from jsplit.core.trees import abstract, combine, describe, inexact_part
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.cotangents import cotangent
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.walk import Name, Op


def _name_of_input(topology: Topology, party: str, i: str) -> Name:
    """Where an input of a loss lies: a value or field, or the parameters or new state of a node."""
    base, _, own = i.rpartition(".")
    return (
        Name(party, Kind.VALUE, i)
        if i in topology.node or i in topology.fields
        else Name(party, Kind(own), base)
    )


def loss_name(loss: Loss) -> Name:
    """Where the value of a loss lies."""
    return Name(loss.party, Kind.LOSS, loss.name)


def weight_of(party: str) -> Name:
    """Where it lies how much each example counts, [batch], of mean 1; `None` where all count alike."""
    return Name(party, Kind.WEIGHT)


def normalise_weight(weight: jax.Array | None) -> jax.Array | None:
    """Weights of examples scaled to mean 1, so that the mean over a batch, or over its equal parts, is the weighted one."""
    if weight is None:
        return None
    weight = jnp.asarray(weight, jnp.result_type(float))
    whole = weight.sum()
    return weight * jnp.where(
        whole > 0, weight.size / jnp.where(whole > 0, whole, 1), 0
    )


def loss_op(topology: Topology, loss: Loss) -> Op:
    reads = (
        weight_of(loss.party),
        *[_name_of_input(topology, loss.party, i) for i in loss.reads],
    )

    def run(weight, *inputs):
        return (_mean(topology, loss, inputs, weight),)

    return Op(
        loss.party,
        OpKind.LOSS,
        loss.name,
        reads,
        (loss_name(loss),),
        run,
    )


def _mean(
    topology: Topology, loss: Loss, inputs: Sequence[PyTree], weight: jax.Array | None
) -> jax.Array:
    """The mean of what a loss returns, of each example as often as it counts."""

    def wide(x):
        narrow = (
            jnp.issubdtype(jnp.result_type(x), jnp.floating) and x.dtype.itemsize < 4
        )
        return x.astype(jnp.float32) if narrow else x

    try:
        result = loss.fn(*jax.tree.map(wide, inputs))
    except Exception as error:
        got = ", ".join(
            f"`{i}` {describe(abstract(x))}"
            for i, x in zip(loss.reads, inputs, strict=True)
        )
        raise ValueError(
            f"loss `{loss.name}` at `{loss.party}` does not run on {got}: {first_line(error)}"
        ) from error
    if not hasattr(result, "dtype") or not jnp.issubdtype(result.dtype, jnp.floating):
        got = (
            jax.typeof(result).str_short()
            if hasattr(result, "dtype")
            else type(result).__name__
        )
        raise ValueError(
            f"loss `{loss.name}`: `fn` must return a floating array, got {got}."
        )
    if result.ndim > 1 and result.size == len(result):
        result = result.reshape(-1)
    if result.ndim > 1 or (
        result.ndim
        and len(result) not in {x.shape[0] for x in jax.tree.leaves(inputs) if x.ndim}
    ):
        got = " and ".join(
            f"`{i}` {describe(abstract(x))}"
            for i, x in zip(loss.reads, inputs, strict=True)
        )
        raise ValueError(
            f"loss `{loss.name}`: `fn` must return a number, or one for each example, got {describe(abstract(result))} from {got}."
        )
    if weight is None or not any(
        i in topology.node or i in topology.fields for i in loss.reads
    ):
        return jnp.mean(result)
    if result.shape[:1] != weight.shape:
        raise ValueError(
            f"loss `{loss.name}`: examples have weights, so `fn` must return one number for each, [{weight.size}], "
            f"got {describe(abstract(result))}."
        )
    return jnp.mean(result * weight.astype(result.dtype))


def loss_and_cotangents_op(topology: Topology, loss: Loss) -> Op:
    """Compute one loss and the cotangents of what it reads, `weight` times."""
    party = loss.party
    places = {i: _name_of_input(topology, party, i) for i in loss.reads}
    free = [
        i for i, place in places.items() if place.what in topology.depends_on_params
    ]  # what depends on some parameter

    def run(weight, *inputs):
        named = dict(zip(places, inputs, strict=True))

        def fn(parts):
            values = {
                i: combine(x, parts[i]) if i in parts else x for i, x in named.items()
            }
            return _mean(topology, loss, [values[i] for i in loss.reads], weight)

        value, pull = jax.vjp(fn, {i: inexact_part(named[i]) for i in free})
        (found,) = pull(jnp.full_like(value, loss.weight))
        return value, *[found[i] for i in free]

    writes = [
        loss_name(loss),
        *[cotangent(party, i, loss.name) for i in free],
    ]
    return Op(
        party,
        OpKind.LOSS,
        loss.name,
        (weight_of(party), *places.values()),
        tuple(writes),
        run,
    )


def info_of(topology: Topology, losses: Mapping[str, jax.Array]) -> Info:
    """The losses, and their weighted sum."""
    first, *others = [
        losses[x.name] if x.weight == 1 else losses[x.name] * x.weight
        for x in topology.losses
        if x.weight
    ]
    return Info(sum(others, first), dict(losses))
