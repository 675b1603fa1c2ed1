"""A loss as operations at its party: its value, and the cotangents of what it reads.

What the value is of the examples of a batch is in `loss_value`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from jsplit.core.base import Info, PyTree
from jsplit.core.frozen import joined
from jsplit.core.trees import combine, inexact_part
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.class_numbers import out_of_range
from jsplit.training.config import Config
from jsplit.training.cotangents import cotangent
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.left_out import Weights, by_example, zeros_for_left_out
from jsplit.training.loss_scale import first_cotangent, scale_names
from jsplit.training.loss_value import loss_function, value_of
from jsplit.training.strengths import Strengths, weight_in, weight_names
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


def _frozen_of(topology: Topology, names: Sequence[Name]) -> dict[Name, Name]:
    """Of parameters and states among some names, where their frozen part lies."""
    found: dict[Name, Name] = {}
    for x in names:
        if x.kind == Kind.PARAMS and topology.node[x.what].segment.trains is not None:
            found[x] = x._replace(kind=Kind.FROZEN)
        if x.kind == Kind.STATE and topology.node[x.what].segment.moves is not None:
            found[x] = x._replace(kind=Kind.FROZEN_STATE)
    return found


def _with_frozen(
    names: Sequence[Name], frozen: Mapping[Name, Name], values: Sequence[PyTree]
) -> list[PyTree]:
    """What lies at `names`, each whole, from that and what lies at `frozen`."""
    count = len(names)
    rest = dict(zip(frozen, values[count:], strict=True))
    return [
        joined(x, rest[name]) if name in rest else x
        for name, x in zip(names, values[:count], strict=True)
    ]


def loss_op(config: Config, loss: Loss, *, train: bool = False) -> Op:
    """Compute one loss, of which nothing is differentiated; in a step as its sum, see `per`."""
    topology = config.topology
    weight = Name(loss.party, Kind.WEIGHT)
    names = [_name_of_input(topology, loss.party, i) for i in loss.reads]
    frozen = _frozen_of(topology, names)

    def run(weight, *given):
        inputs = _with_frozen(names, frozen, given)
        value = value_of(config, loss, inputs, weight, train=train)
        return value, *_range(config, loss, inputs, weight)

    reads = (weight, *names, *frozen.values())
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

    at, strength = scale_names(config, party), weight_names(loss)
    frozen = _frozen_of(topology, [*names.values()])

    def run(weight, *inputs):
        kept, inputs = inputs[: len(at)], inputs[len(at) :]
        given, inputs = inputs[: len(strength)], inputs[len(strength) :]
        factor = weight_in(loss, dict(zip(strength, given, strict=True)))
        count = len(names)
        named = dict(zip(names, inputs[:count], strict=True))
        rest = dict(zip(frozen, inputs[count:], strict=True))

        def fn(parts):
            values = named | {i: combine(named[i], x) for i, x in parts.items()}
            values |= {
                i: joined(values[i], rest[name])
                for i, name in names.items()
                if name in rest
            }
            read = [values[i] for i in loss.reads]
            return value_of(config, loss, read, weight, train=True)

        parts = {i: inexact_part(named[i]) for i in differentiable}
        value, pull = jax.vjp(fn, parts)
        (found,) = pull(first_cotangent(config, value, factor, kept))
        ranges = _range(config, loss, [named[i] for i in loss.reads], weight)
        return value, *ranges, *[found[i] for i in differentiable]

    reads = (
        Name(party, Kind.WEIGHT),
        *at,
        *strength,
        *names.values(),
        *frozen.values(),
    )
    found = [cotangent(party, i, loss.name) for i in differentiable]
    writes = (loss_name(loss), *_range_names(config, loss), *found)
    return Op(party, OpKind.LOSS, loss.name, reads, writes, run)


def _range_names(config: Config, loss: Loss) -> list[Name]:
    return [] if config.nonfinite == "allow" else [range_name(loss)]


def _range(
    config: Config,
    loss: Loss,
    inputs: Sequence[PyTree],
    weight: Weights | None,
) -> list[jax.Array]:
    """In how many fields class numbers are out of range, if anybody asks."""
    if config.nonfinite == "allow":
        return []
    fields = [i in config.topology.fields for i in loss.reads]
    by_entry = weight is not None and weight.normal.ndim > 1
    if weight is None or not (loss.takes_weight or by_entry):
        return [out_of_range(loss_function(loss), inputs, fields)]

    def fn(weight, *inputs):
        if loss.takes_weight:
            return loss_function(loss, weight)(*inputs)
        # Of what counts, other entries may not, as tokens labelled -100.
        return zeros_for_left_out(weight, loss.fn(*inputs))

    given = by_example(weight.normal) if loss.takes_weight else weight.normal

    # As a field: nothing is differentiated by it.
    return [out_of_range(fn, [given, *inputs], [True, *fields])]


def info_of(
    topology: Topology,
    losses: Mapping[str, jax.Array],
    strengths: Strengths | None = None,
) -> Info:
    """The losses, and their weighted sum.

    Args:
        topology: whose losses they are.
        losses: by name.
        strengths: those that are weights.
    """
    known = strengths or {}
    # Neither a product with 1 nor a sum with 0: eagerly each would be a
    # program to run.
    first, *others = [
        losses[x.name] if x.weight == 1 else losses[x.name] * weight_in(x, known)
        for x in topology.losses
        if x.weight
    ]
    return Info(sum(others, first), dict(losses))
