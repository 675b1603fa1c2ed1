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
from jsplit.training.class_numbers import out_of_range
from jsplit.training.config import Config
from jsplit.training.cotangents import cotangent
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.left_out import zeros_for_left_out
from jsplit.training.loss_scale import first_cotangent, scale_names
from jsplit.training.walk import Name, Op


def loss_name(loss: Loss) -> Name:
    """Where the value of a loss lies."""
    return Name(loss.party, Kind.LOSS, loss.name)


def range_name(loss: Loss) -> Name:
    """Where it lies in how many fields of a loss class numbers are out of range."""
    return Name(loss.party, Kind.RANGE, loss.name)


def _name_of_input(topology: Topology, party: str, i: str) -> Name:
    """Where an input of a loss lies: a value, a field, or the parameters or state of a node."""
    if i in topology.node or i in topology.fields:
        return Name(party, Kind.VALUE, i)
    # The topology has checked that all else is written "node.params" or
    # "node.state".
    node, _, own = i.rpartition(".")
    return Name(party, Kind(own), node)


def loss_op(config: Config, loss: Loss) -> Op:
    """Compute one loss, of which nothing is differentiated."""
    topology = config.topology
    weight = Name(loss.party, Kind.WEIGHT)
    inputs = [_name_of_input(topology, loss.party, i) for i in loss.reads]

    def run(weight, *inputs):
        value = _mean(topology, loss, inputs, weight)
        return value, *_range(config, loss, inputs)

    reads = (weight, *inputs)
    writes = (loss_name(loss), *_range_names(config, loss))
    return Op(loss.party, OpKind.LOSS, loss.name, reads, writes, run)


def loss_and_cotangents_op(config: Config, loss: Loss) -> Op:
    """Compute one loss and the cotangents of what it reads, times the loss's weight."""
    party, topology = loss.party, config.topology
    # One entry for each name: a loss may read a value twice.
    names = {i: _name_of_input(topology, party, i) for i in loss.reads}
    differentiable = [
        i for i, name in names.items() if name.what in topology.depends_on_params
    ]

    at = scale_names(config, party)

    def run(weight, *inputs):
        kept, inputs = inputs[: len(at)], inputs[len(at) :]
        named = dict(zip(names, inputs, strict=True))

        def fn(parts):
            values = named | {i: combine(named[i], x) for i, x in parts.items()}
            return _mean(topology, loss, [values[i] for i in loss.reads], weight)

        parts = {i: inexact_part(named[i]) for i in differentiable}
        value, pull = jax.vjp(fn, parts)
        (found,) = pull(first_cotangent(config, value, loss.weight, kept))
        ranges = _range(config, loss, [named[i] for i in loss.reads])
        return value, *ranges, *[found[i] for i in differentiable]

    reads = (Name(party, Kind.WEIGHT), *at, *names.values())
    found = [cotangent(party, i, loss.name) for i in differentiable]
    writes = (loss_name(loss), *_range_names(config, loss), *found)
    return Op(party, OpKind.LOSS, loss.name, reads, writes, run)


def _range_names(config: Config, loss: Loss) -> list[Name]:
    return [] if config.nonfinite == "allow" else [range_name(loss)]


def _range(config: Config, loss: Loss, inputs: Sequence[PyTree]) -> list[jax.Array]:
    """In how many fields class numbers are out of range, if anybody asks."""
    if config.nonfinite == "allow":
        return []
    fields = config.topology.fields
    return [out_of_range(loss.fn, inputs, [i in fields for i in loss.reads])]


def of_examples(topology: Topology, loss: Loss) -> bool:
    """Whether a loss is of examples; a penalty on parameters or states alone is not."""
    return any(i in topology.node or i in topology.fields for i in loss.reads)


def _mean(
    topology: Topology, loss: Loss, inputs: Sequence[PyTree], weight: jax.Array | None
) -> jax.Array:
    """The mean of what a loss returns, of each example as often as it counts."""
    result = _per_example(loss, inputs)

    if weight is None or not of_examples(topology, loss):
        return jnp.mean(result)
    if result.shape[:1] != weight.shape:
        raise ValueError(
            f"loss `{loss.name}`: examples have weights, so `fn` must return one number "
            f"for each, [{weight.size}], got {describe(abstract(result))}."
        )
    result = zeros_for_left_out(weight, result)
    return jnp.mean(result * weight.astype(result.dtype))


def _per_example(loss: Loss, inputs: Sequence[PyTree]) -> jax.Array:
    """What a loss returns, checked: one number, or one for each example."""

    def got(joined: str) -> str:
        shapes = [describe(abstract(x)) for x in inputs]
        return joined.join(
            f"`{i}` {shape}" for i, shape in zip(loss.reads, shapes, strict=True)
        )

    try:
        result = loss.fn(*jax.tree.map(_wide, inputs))
    except Exception as error:
        raise ValueError(
            f"loss `{loss.name}` at `{loss.party}` does not run on {got(', ')}: "
            f"{first_line(error)}"
        ) from error
    if not hasattr(result, "dtype") or not jnp.issubdtype(result.dtype, jnp.floating):
        array = hasattr(result, "dtype")
        kind = jax.typeof(result).str_short() if array else type(result).__name__
        raise ValueError(
            f"loss `{loss.name}`: `fn` must return a floating array, got {kind}."
        )

    # [batch, 1] is one number for each example, as a last layer of
    # width 1 gives it.
    if result.ndim > 1 and result.size == len(result):
        result = result.reshape(-1)
    sizes = {x.shape[0] for x in jax.tree.leaves(inputs) if x.ndim}
    if result.ndim > 1 or (result.ndim and len(result) not in sizes):
        raise ValueError(
            f"loss `{loss.name}`: `fn` must return a number, or one for each example, got "
            f"{describe(abstract(result))} from {got(' and ')}."
        )
    return result


def _wide(x: jax.Array) -> jax.Array:
    """An array of less than 32 bits floating as float32."""
    # The log of a sum of exponentials, and the mean over a batch, lose
    # too much in 16 bits.
    floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return x.astype(jnp.float32) if floating and x.dtype.itemsize < 4 else x


def info_of(topology: Topology, losses: Mapping[str, jax.Array]) -> Info:
    """The losses, and their weighted sum."""
    # Neither a product with 1 nor a sum with 0: eagerly each would be a
    # program to run.
    first, *others = [
        losses[x.name] if x.weight == 1 else losses[x.name] * x.weight
        for x in topology.losses
        if x.weight
    ]
    return Info(sum(others, first), dict(losses))
