"""Metrics of a round: over all examples of all clients, and of each client alone.

One program computes what metrics read, of all batches of the round; the metrics are
computed of it on the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.placement import replicate
from jsplit.jaxprs.compiling import jit
from jsplit.populations.round import Round
from jsplit.rounds.carry import Kept, RoundCarry, rows_of
from jsplit.rounds.forms import StateForms
from jsplit.rounds.inputs import reads_that_count
from jsplit.rounds.noise import words_in
from jsplit.rounds.sharing import Sharing
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.metrics import (
    MetricFailed,
    Rows,
    compute_metrics,
    observed_names,
    refuse_traced,
)
from jsplit.training.step import inference_ops
from jsplit.training.store import load
from jsplit.training.walk import Name, execute


@dataclass(frozen=True, eq=False)
class RoundMetrics:
    """The metrics of an algorithm.

    Attributes:
        config: that of the trainer.
        forms: the forms of a state of many clients.
    """

    config: Config
    forms: StateForms

    @cached_property
    def fields(self) -> frozenset[str]:
        """The fields that metrics read."""
        topology = self.config.topology
        read = {i for metric in topology.metrics for i in metric.reads}
        return frozenset(read & {*topology.fields})

    def add(
        self,
        info: RoundInfo,
        carry: RoundCarry,
        kept: Kept,
        fields: Mapping[str, PyTree],
        round: Round,
    ) -> RoundInfo:
        """The losses of a round with its metrics.

        Args:
            info: the losses.
            carry: the state, as programs have it.
            kept: what of the state no round changes.
            fields: those that nodes read, on the devices.
            round: which clients are measured, and on which records.
        """
        topology = self.config.topology
        if not topology.metrics:
            return info
        rows = [[*its] for its in self._rows(carry, kept, fields, round)]
        everyone = [batch for its in rows for batch in its]
        found = compute_metrics(topology, topology.metrics, everyone)
        each = {}
        for metric in topology.metrics:
            numbers = [self._of_client(metric.name, its) for its in rows]
            each[metric.name] = np.array([np.nan if x is None else x for x in numbers])
            if None in numbers:
                clients = ", ".join(
                    round.names[client] if round.names else str(client)
                    for client, x in zip(round.client, numbers, strict=True)
                    if x is None
                )
                warnings.warn(
                    f"metric `{metric.name}` cannot be computed of the clients {clients} "
                    "alone, so theirs is NaN.",
                    stacklevel=3,
                )
        return info._replace(metrics=found, each={**info.each, **each})

    def _of_client(self, name: str, rows: list[Rows]) -> float | int | bool | None:
        """A metric of one client, NaN without examples, `None` where `fn` does not run."""
        if not any(np.any(batch.weight) for batch in rows):
            return np.nan
        topology = self.config.topology
        [metric] = [x for x in topology.metrics if x.name == name]
        try:
            return compute_metrics(topology, [metric], rows)[name]
        except MetricFailed:
            # As an AUC of a client whose records are all of one class.
            return None

    def _rows(
        self,
        carry: RoundCarry,
        kept: Kept,
        fields: Mapping[str, PyTree],
        round: Round,
    ) -> Iterator[Iterator[Rows]]:
        """By client, what metrics read of each of its batches."""
        count, steps, size = round.reads.shape
        # Of what counts nowhere nothing is read, as for the losses.
        taken = reads_that_count(round.reads, round.weight)
        # As the steps of a round are numbered: so links draw as they do for the losses.
        before = np.cumsum(round.steps, dtype=np.int32) - round.steps
        client = np.asarray(round.client)
        values = {}
        if observed_names(self.config.topology):
            # Steps that a client does not take are computed too, so that rounds of one
            # shape share a program.
            number = np.tile(np.arange(steps, dtype=np.uint32), count)
            each = (np.repeat(client, steps), np.repeat(before, steps), number)
            reads = taken.reshape(-1, size)
            values = self._observe(carry, kept, fields, reads, *each)
        refuse_traced(self.config.topology, values)
        host = jax.tree.map(np.asarray, values)
        own = {
            f: jax.tree.map(np.asarray, x)
            for f, x in round.fields.items()
            if f in self.fields
        }

        def of_client(k: int) -> Iterator[Rows]:
            for s in range(round.steps[k]):
                batch = rows_of(own, taken[k, s])
                there = rows_of(host, k * steps + s)
                yield Rows(there, batch, round.weight[k, s])

        return (of_client(k) for k in range(count))

    @cached_property
    def _observe(self):
        """The program that computes what metrics read, of all batches after each other."""
        config, forms = self.config, self.forms
        ops = inference_ops(config, (), config.topology.metrics)
        places = observed_names(config.topology)

        def observe(
            carry: RoundCarry,
            kept: Kept,
            fields: Mapping[str, PyTree],
            reads: jax.Array,
            client: jax.Array,
            before: jax.Array,
            number: jax.Array,
        ) -> dict[Name, PyTree]:
            own = forms.sharing.pick(carry.store, Sharing.OWN)

            def one(batch):
                reads, client, before, number = batch
                mine = {**carry.store, **rows_of(own, client)}
                state = forms.one(mine, kept, carry.step + before)
                words = words_in(mine, number)
                store = load(forms.layout, state, rows_of(fields, reads), noise=words)
                execute(ops, store)
                return {name: store[name] for name in places}

            found = jax.lax.map(one, (reads, client, before, number))
            return replicate(found, forms.mesh)

        return jit(observe, config.kernels)
