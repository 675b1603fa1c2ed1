"""What one party has sent and received of a step, kept on its way to and from the network.

It stands where the party's programs exchange arrays, so what they compute is as without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PartyState, PyTree
from jsplit.party.compute.exchange import Exchange
from jsplit.party.compute.local import Local
from jsplit.training.crossing import packet
from jsplit.training.loss_scale import LABEL
from jsplit.training.own_record import PartyRecord
from jsplit.training.recording import (
    Crossed,
    Passage,
    crossed_in,
    decoder,
    passage_of,
    receipts,
)
from jsplit.training.walk import Op, Wire
from jsplit.training.walks import walks_of

_Arrays = Sequence[ArrayLike]


class Recorder:
    """An exchange that keeps what goes through it, and tells it step by step.

    Args:
        local: the party's part, which knows what messages are made of.
        exchange: what carries arrays.
        tell: called with the record of each step.
    """

    def __init__(
        self,
        local: Local,
        exchange: Exchange,
        tell: Callable[[PartyRecord], object],
    ):
        self.local, self.exchange, self.tell = local, exchange, tell
        self.there, self.wait = exchange.there, exchange.wait
        # By step, then by wire and micro-batch: with a staleness several are under way.
        self.kept: dict[int, dict[tuple[int, int], _Arrays]] = {}
        walks, me = walks_of(local.config), local.party
        self.ends = {wire for wire, _, _ in receipts(walks.finish.ops)}
        several = local.micros > 1
        self.decoders: list[tuple[int, Op, Callable[..., tuple[PyTree, PyTree]]]] = [
            (
                local.wires.index(wire),
                op,
                decoder(op, several and wire not in self.ends),
            )
            for wire, _, op in (*receipts(walks.train.ops), *receipts(walks.finish.ops))
            if me in (wire.sender, wire.receiver)
        ]

    def send(self, wire: int, step: int, micro: int, arrays: _Arrays) -> None:
        """Keep what is sent, and send it."""
        self._keep(wire, step, micro, arrays)
        self.exchange.send(wire, step, micro, arrays)

    def take(self, wire: int, step: int, micro: int) -> _Arrays:
        """Take what has come, and keep it."""
        arrays = self.exchange.take(wire, step, micro)
        self._keep(wire, step, micro, arrays)
        return arrays

    def _keep(self, wire: int, step: int, micro: int, arrays: _Arrays) -> None:
        # Each client's wires are its own, and stand for those of the topology.
        at = wire % len(self.local.wires), micro
        self.kept.setdefault(step, {})[at] = arrays

    def begin(self) -> None:
        """Forget steps that others go back from: they are taken again."""
        self.kept.clear()

    def end(
        self,
        step: int,
        before: PartyState,
        batch: Mapping[str, PyTree],
        losses: Mapping[str, jax.Array],
    ) -> None:
        """Tell a step that has been taken.

        Args:
            step: its number.
            before: the party's state before it, of which the memory of links is read.
            batch: the party's own records of it.
            losses: those that it computes.
        """
        local, kept = self.local, self.kept.pop(step)
        weight = batch.get(local.agreed.weight)
        crossed: dict[Passage, Crossed] = {}
        for number, op, decode in self.decoders:
            wire = local.wires[number]
            micros = 1 if wire in self.ends else local.micros
            sent = [self._sent(number, kept[number, m]) for m in range(micros)]
            found = decode(sent, *self._own(wire, op, before))
            if wire in self.ends:
                crossed[passage_of(wire)] = Crossed(*found)
            else:
                size = local.agreed.batch
                crossed[passage_of(wire)] = crossed_in(local.config, wire, *found, size)
        turns, told = local.turns, jax.device_get(local.told)
        self.tell(
            PartyRecord(
                local.party,
                step,
                {at: jax.tree.map(np.asarray, crossed[at]) for at in sorted(crossed)},
                {f: x for f, x in batch.items() if f != local.agreed.weight},
                weight,
                dict(losses),
                turns.names[turns.client(step)],
                told.norms if told else None,
                told.hyperparams if told else {},
            )
        )

    def _own(self, wire: Wire, op: Op, before: PartyState) -> list[PyTree]:
        """What else the receiver of a message decodes by, which this party knows too."""
        link = self.local.config.links.get((wire.kind, wire.what))
        found: list[PyTree] = []
        for at in op.reads[1:]:
            # Every party keeps the same loss scale, so the receiver's is its own.
            kept = before.links[at.what]
            if at.what != LABEL and wire.sender == self.local.party:
                assert link is not None and link.receiver is not None
                kept = link.receiver.mirror(kept)
            found.append(kept)
        return found

    def _sent(self, number: int, arrays: _Arrays) -> PyTree:
        """What a program sends or takes, of its arrays."""
        local = self.local
        wire = local.wires[number]
        payload, value = local.like(number, local.agreed.batch // local.micros)
        found = jax.tree.unflatten(jax.tree.structure(payload), arrays)
        linked = (wire.kind, wire.what) in local.config.links
        if linked or wire in local.unread:
            return packet(local.config, wire, found, value)
        return found
