"""One party's process before and between its steps: where it begins, what it trains on, what it hands over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import jax.numpy as jnp

from jsplit.core.base import PartyState, PyTree, Segment
from jsplit.party.compute.handover import learned, taken
from jsplit.party.compute.local import Local, check_size
from jsplit.party.connection.network import Network
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.records import Records, places_of
from jsplit.party.contract.turns import Turns
from jsplit.party.durable import Disk, InMemory
from jsplit.topology.graph import Topology

_log = logging.getLogger("jsplit.party")
Own = Mapping[str, Segment | Callable] | Topology
"""What a party brings: its segments and loss functions by name, or a topology that has them."""


@dataclass(frozen=True)
class Metrics:
    """What one step of one party took.

    Attributes:
        step: its number, from 1 on.
        losses: that this party computes, each before its weight.
        sent, received: bytes of frames that carry values.
        seconds: of the whole step; `compute`: of its own work; `wire`: of handing over what it sends; `wait`: for others.
        epoch: how often the run was begun or rolled back.
    """

    step: int
    losses: Mapping[str, float]
    sent: int
    received: int
    seconds: float
    compute: float
    wire: float
    wait: float
    epoch: int

    def plain(self) -> dict[str, Any]:
        """For JSON, which has no NaN and no infinity: a loss that is not finite is `None`."""
        return {
            **self.__dict__,
            "losses": {n: x if isfinite(x) else None for n, x in self.losses.items()},
        }

    def __str__(self) -> str:
        losses = ", ".join(f"{n} {x:.4f}" for n, x in self.losses.items())
        parts = [
            f"step {self.step}",
            losses,
            f"{self.sent} B sent",
            f"{self.received} B received",
        ]
        times = f"{1e3 * self.seconds:.1f} ms: compute {1e3 * self.compute:.1f}, wire {1e3 * self.wire:.1f}"
        return ", ".join(
            p for p in (*parts, f"{times}, wait {1e3 * self.wait:.1f}") if p
        )


@dataclass(frozen=True)
class Result:
    """What a party has when its part is done.

    Attributes:
        state: parameters, statistics, optimizer state: of this party alone.
        step: at which it stands.
        losses: by name, of every step that this process computed last (of an evaluation: the means over all records).
        outputs: of `predict`, by node, [record, ...], in the order that `predict` says.
        stopped: whether it was asked to stop before the end.
        epoch: how often the run was begun or rolled back.
        away: which clients were passed over, from which steps on.
    """

    state: PartyState
    step: int
    losses: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, PyTree] = field(default_factory=dict)
    stopped: bool = False
    epoch: int = 0
    away: Sequence[tuple[int, Sequence[str]]] = ()


@dataclass
class PartyRun:
    """A party with its connections, before and between its steps."""

    agreed: Agreement
    party: str
    local: Local
    records: Mapping[str, Records]
    disk: Disk | InMemory
    network: Network
    turns: Turns

    def begin(self) -> tuple[PartyState, int]:
        """An epoch, once all are there that must be: the state to go on with, and from which step. If the run is over, as the
        lead says, none begins."""
        steps, member = self.agreed["steps"], self.network.member
        self.network.start(
            lambda: steps in self.disk.steps and member.committed >= steps
        )
        start = member.start
        if start is None:
            return self.disk.restore(steps), steps
        self.turns = self.local.turns = self.agreed.turns.excluding(start.away)
        if self.agreed.turns.skips:
            self.disk.forget(self.turns.there_until(self.party, start.step))
            if self.network.member.rendezvous:
                self.disk.remember(start.away)
            if (
                start.step not in self.disk.steps
            ):  # it comes back, and all others have gone on
                self.disk.save(
                    self.disk.restore(max(self.disk.steps))._replace(
                        step=jnp.int32(start.step)
                    )
                )
        state = self.disk.restore(start.step)
        self.network.durable(self.disk.steps)
        _log.info(
            "%s goes on from step %d, epoch %d", self.party, start.step, start.epoch
        )
        return state, start.step

    def batch(self, step: int) -> Mapping[str, PyTree]:
        """The records of a step of training."""
        start = self.network.member.start
        size, turns, counts = (
            self.agreed["batch"],
            self.turns,
            start.records if start else {},
        )
        client = turns.client(step)
        records, count = (
            self.records[turns.names[client]],
            counts.get(turns.names[client]),
        )
        if records.batches is not None:
            found = dict(records.batches(step))
        elif not records.fields:
            return {}
        elif count is None or count < size:
            raise ValueError(
                f"there are {count or 0} records{of(turns.names[client])}, a batch takes {size}."
            )
        else:
            found = records.take(
                places_of(
                    turns.steps_of(client, step), count, size, self.agreed["seed"]
                )
            )
        check_size(found, size)
        return found

    def hand_over(self, state: PartyState, step: int) -> PartyState:
        """Before a step: give what this party's role has learned to who plays it next, or take it from who played it."""
        first = len(self.turns.names) * len(self.local.wires)
        for place, hand in self.turns.handovers_of(self.party, step):
            if hand.sender == self.party:
                self.network.send(first + place, step, 0, learned(state))
            else:
                state = taken(state, self.network.take(first + place, step, 0))
        return state

    def keep_pace(self, step: int, asked: Callable[[], bool]) -> None:
        """Before a checkpoint: a party that has no turn waits until all have the one before, or until it is asked to stop."""
        last, member = (
            step // self.agreed["checkpoint"] * self.agreed["checkpoint"],
            self.network.member,
        )
        if not self.turns.works(self.party, step):
            what = f"its turn: not all have come to step {last}"
            self.network.until(
                lambda: asked() or member.committed >= last, what, self.agreed.parties
            )


def of(client: str) -> str:
    return f" of `{client}`" if client else ""
