"""Passes of inference over the batches of some records, with one state that all have.

What each batch gives is put together in `infer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np

from jsplit.core.base import PartyState, PyTree
from jsplit.party.bounds import OverBound
from jsplit.party.compute.at_cut import predict_at
from jsplit.party.connection.interrupts import RolledBack, Stopped
from jsplit.party.contract.record_order import Records
from jsplit.party.process import PartyRun
from jsplit.party.task import Task, TaskKind
from jsplit.topology.graph import Topology
from jsplit.training.evaluating import means_of_set
from jsplit.training.verdicts import NotFinite
from jsplit.wire.errors import Refused

_log = logging.getLogger("jsplit.party")
_DONE = 1 << 62
"""In the place of a checkpoint's step, and larger than any: this party has its result."""


def passes(
    me: PartyRun,
    task: Task,
    records: Records,
    restore: Callable[[int], PartyState],
    at: Sequence[str] | None = None,
) -> tuple[PartyState, list[PyTree]]:
    """The state of the newest step that all have, and what each batch gives with it.

    Args:
        me: this party.
        task: what all are at.
        records: of the party.
        restore: gives its state of a step.
        at: of a prediction, what it gives in the place of outputs.

    Returns:
        The state, and by batch its outputs by node, or its losses by name and what
        metrics read.
    """
    me.get_ready()
    forward = me.local.evaluate
    if task.kind is TaskKind.PREDICT:
        forward = me.local.predict if at is None else partial(predict_at, me.local, at)
    while True:
        try:
            me.network.start()
            start = me.network.member.start
            assert start is not None
            state = restore(start.step)
            _log.info("%s: %s of step %d", me.party, task.kind, start.step)
            found = []
            for step in range(task.steps):
                size = task.size_of(step)
                first = step * task.size
                batch = records.take(np.arange(first, first + size))
                if me.network.asked():
                    raise Stopped
                given = forward(state, batch, step, size, me.incoming)
                # Off the device at once: outputs of all records may not fit there.
                found.append(jax.tree.map(np.asarray, given))
                me.network.finished(step)
            _part_from_all(me)
            return state, found
        except (NotFinite, OverBound) as error:
            raise me.ended_by(error) from error
        except Refused:
            me.tell_of_last()
            raise
        except Stopped:
            me.network.leave(f"`{me.party}` was asked to stop.")
            raise
        except RolledBack:
            # Another party has come again and has nothing yet, so all begin anew.
            continue


def _part_from_all(me: PartyRun) -> None:
    """Wait until all are done, and say goodbye."""
    network = me.network
    # As checkpoints are committed: "on disk" here means that the result is in hand.
    # The steps that it has are said again, for who may come back without this one.
    network.durable([*{*network.member.status.durable, _DONE}])
    network.until(
        lambda: network.member.committed >= _DONE,
        "all to be done",
        me.agreed.parties,
    )
    network.leave("", network.awaited())


def means(
    topology: Topology,
    task: Task,
    losses: Sequence[Mapping[str, np.ndarray]],
    counts: PyTree = None,
) -> dict[str, float]:
    """The mean of each loss over all records, from those of batches, by name.

    Args:
        topology: whose losses they are.
        task: what all are at.
        losses: of each batch.
        counts: how much each record counts, or each of its entries, in the order of
            the batches; by default all count alike.

    Raises:
        ValueError: if none counts.
    """
    if not losses[0]:
        return {}
    # The last batch may be smaller, and counts as much less.
    sizes = [task.size_of(step) for step in range(task.steps)]
    each = np.ones(sum(sizes)) if counts is None else np.asarray(counts, float)
    of_batch = [x.sum() for x in np.split(each, np.cumsum(sizes)[:-1])]
    # By what one process does it by, so to the bit.
    found = means_of_set(topology, losses, of_batch)
    return {name: float(x) for name, x in found.items()}
