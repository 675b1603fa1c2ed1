"""The four walks of a training: a step, its end, and inference with losses and without."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.training.config import Config
from jsplit.training.kinds import PERSISTENT, Kind, OpKind
from jsplit.training.losses import loss_name
from jsplit.training.metrics import observed_names
from jsplit.training.nonfinite import check_ops, faults, flags_name, measuring_ops
from jsplit.training.scalar_exchange import Exchange, rows_of, scalar_wires
from jsplit.training.step import inference_ops, looking_ops, training_ops
from jsplit.training.step_numbers import numbers_name
from jsplit.training.sums import accumulate_ops, total
from jsplit.training.update import (
    exchanges,
    gradient_names,
    norms,
    tells,
    update_ops,
)
from jsplit.training.walk import Name, Op, Walk, Wire
from jsplit.training.wires import wires


class Walks(NamedTuple):
    """The walks of a configuration, and where their results lie.

    Attributes:
        train: one batch, with the update; with several micro-batches
            one of them, added to the sums, without the update.
        finish: the update from the sums; empty where there is one
            micro-batch.
        measure: the losses, and what metrics read, in inference mode.
        infer: the outputs, in inference mode.
        look: the same, with all that crosses to where losses and metrics are.
        losses: where the value of each loss lies.
        observed: where the values lie that metrics read.
        outputs: where the value of each node lies that no other node
            reads.
    """

    train: Walk
    finish: Walk
    measure: Walk
    infer: Walk
    look: Walk
    losses: tuple[Name, ...]
    observed: tuple[Name, ...]
    outputs: tuple[Name, ...]


def step_ops(config: Config) -> tuple[list[Op], list[Op]]:
    """The operations of one batch or micro-batch, and those after all micro-batches.

    The second list is empty where there is one: all is in the first.
    """
    train = training_ops(config)
    finish = update_ops(config) + check_ops(config)
    if config.microbatches == 1:
        # The last turns of the backward pass then update as well.
        return train + finish, []
    return train + accumulate_ops(config), finish


def scalar_exchanges(config: Config) -> list[Exchange]:
    """Every sum that parties exchange in a step."""
    skips = config.nonfinite == "skip"
    return [*exchanges(config), *([faults(config)] if skips else [])]


def all_wires(config: Config) -> list[Wire]:
    """Every message of a step or an evaluation: activations, cotangents, and numbers for sums."""
    found = wires(config.topology)
    for exchange in scalar_exchanges(config):
        found += scalar_wires(config.topology, exchange)
    return found


def scalar_shape(config: Config, wire: Wire) -> jax.ShapeDtypeStruct:
    """The shape of a message of an exchange."""
    exchange = next(x for x in scalar_exchanges(config) if x.name == wire.what)
    count = len(config.norms) if exchange.name == norms(config).name else 1
    rows = rows_of(config.topology, exchange, wire)
    shape = (count,) if rows is None else (rows, count)
    return jax.ShapeDtypeStruct(shape, jnp.result_type(float))


def walks_of(config: Config) -> Walks:
    """The walks of all parties."""
    topology = config.topology
    losses = tuple(loss_name(x) for x in topology.losses)
    # Sinks: values that other nodes read are on the way, and stay with
    # their parties.
    outputs = tuple(Name(topology.node[n].party, Kind.VALUE, n) for n in topology.sinks)
    train, finish = step_ops(config)
    lasting = frozenset(
        w for op in (*train, *finish) for w in op.writes if w.kind in PERSISTENT
    )
    checked = config.nonfinite != "allow"
    flags = tuple(flags_name(p) for p in topology.parties if checked)
    recorded: frozenset[Name] = frozenset()
    if "gradients" in config.records:
        recorded = recorded.union(
            *(gradient_names(config, p) for p in topology.parties)
        )
    told = [p for p in topology.parties if tells(config, p)]
    recorded = recorded.union(map(numbers_name, told))
    if finish:
        adds = [op for op in train if op.kind == OpKind.ACCUMULATE]
        sums = frozenset(w for op in adds for w in op.writes)
        kept, left = lasting | sums, lasting.union(map(total, losses), flags, recorded)
    else:
        kept, left = lasting.union(losses, flags, recorded), frozenset()

    # Inference keeps nothing of a state: none of it may be lost when a
    # call is over.
    measure = inference_ops(config, topology.losses, topology.metrics)
    checks = measuring_ops(config)
    measured = (*losses, *observed_names(topology), *(op.writes[0] for op in checks))
    infer, observed = inference_ops(config), observed_names(topology)
    return Walks(
        train=Walk(tuple(train), kept),
        finish=Walk(tuple(finish), left),
        measure=Walk((*measure, *checks), frozenset(measured)),
        infer=Walk(tuple(infer), frozenset(outputs)),
        look=Walk(tuple(looking_ops(config)), frozenset(outputs)),
        losses=losses,
        observed=observed,
        outputs=outputs,
    )
