"""The four walks of a training: a step, its end, and inference with losses and without."""

from __future__ import annotations

from typing import NamedTuple

from jsplit.training.config import Config
from jsplit.training.kinds import PERSISTENT, Kind
from jsplit.training.losses import loss_name
from jsplit.training.metrics import observed_names
from jsplit.training.step import inference_ops, training_ops
from jsplit.training.update import accumulate_ops, total, update_ops
from jsplit.training.walk import Name, Walk


class Walks(NamedTuple):
    """The walks of a configuration, and where their results lie.

    Attributes:
        train: one batch, with the update; with several micro-batches
            one of them, added to the sums, without the update.
        finish: the update from the sums; empty where there is one
            micro-batch.
        measure: the losses, and what metrics read, in inference mode.
        infer: the outputs, in inference mode.
        losses: where the value of each loss lies.
        observed: where the values lie that metrics read.
        outputs: where the value of each node lies that no other node
            reads.
    """

    train: Walk
    finish: Walk
    measure: Walk
    infer: Walk
    losses: tuple[Name, ...]
    observed: tuple[Name, ...]
    outputs: tuple[Name, ...]


def walks_of(config: Config) -> Walks:
    """The walks of all parties."""
    topology = config.topology
    losses = tuple(loss_name(x) for x in topology.losses)
    # Sinks: values that other nodes read are on the way, and stay with
    # their parties.
    outputs = tuple(Name(topology.node[n].party, Kind.VALUE, n) for n in topology.sinks)
    train, updates = training_ops(config), update_ops(config)
    lasting = frozenset(
        w for op in (*train, *updates) for w in op.writes if w.kind in PERSISTENT
    )
    if config.microbatches == 1:
        # The last turns of the backward pass then update as well.
        train, updates, sums = train + updates, [], ()
    else:
        adds = accumulate_ops(config)
        train, sums = train + adds, tuple(w for op in adds for w in op.writes)

    # Inference keeps nothing of a state: none of it may be lost when a
    # call is over.
    measure = inference_ops(config, topology.losses, topology.metrics)
    infer, observed = inference_ops(config), observed_names(topology)
    return Walks(
        train=Walk(tuple(train), lasting.union(losses, sums)),
        finish=Walk(tuple(updates), lasting.union(total(n) for n in losses)),
        measure=Walk(tuple(measure), frozenset((*losses, *observed))),
        infer=Walk(tuple(infer), frozenset(outputs)),
        losses=losses,
        observed=observed,
        outputs=outputs,
    )
