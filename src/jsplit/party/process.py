"""One party's process, before its first step: its part of the computation built, its records in order, its connections up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.base import Link, PartyState, PyTree, Segment
from jsplit.party import shapes
from jsplit.party.agreement import Agreement, canonical
from jsplit.party.connections import identity_of
from jsplit.party.durable import Disk, InMemory
from jsplit.party.handover import learned, shapes_of_learned, taken
from jsplit.party.local import Local, check_size
from jsplit.party.network import Network
from jsplit.party.records import Batches, Records, places_of
from jsplit.party.turns import Turns
from jsplit.topology import Topology
from jsplit.wire.certs import Trust
from jsplit.wire.codec import Shapes
from jsplit.wire.member import Member
from jsplit.wire.rendezvous import Status
from jsplit.wire.session import Away, Terms

log = logging.getLogger("jsplit.party")
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

    def __str__(self) -> str:
        losses = ", ".join(f"{n} {x:.4f}" for n, x in self.losses.items())
        parts = [f"step {self.step}", losses, f"{self.sent} B sent", f"{self.received} B received"]
        times = f"{1e3 * self.seconds:.1f} ms: compute {1e3 * self.compute:.1f}, wire {1e3 * self.wire:.1f}"
        return ", ".join(p for p in (*parts, f"{times}, wait {1e3 * self.wait:.1f}") if p)


@dataclass(frozen=True)
class Result:
    """What a party has when its part is done.

    Attributes:
        state: parameters, statistics, optimizer state: of this party alone.
        step: at which it stands.
        losses: by name, of every step that this process computed last (of an evaluation: the means over all records).
        outputs: of `predict`, by node, [record, ...], in the order in which this party gave its records.
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
class Process:
    """A party with its connections, before and between its steps."""

    agreed: Agreement
    party: str
    local: Local
    records: Mapping[str, Records]
    disk: Disk | InMemory
    network: Network
    terms: Terms
    turns: Turns

    def begin(self) -> tuple[PartyState, int]:
        """An epoch, once all are there that must be: the state to go on with, and from which step."""
        self.network.start()
        start = self.network.member.start
        assert start is not None
        self.turns = self.local.turns = self.agreed.turns.without(start.away)
        if self.agreed.turns.skips:
            self.disk.forget(self.turns.there_until(self.party, start.step))
            if self.network.member.rendezvous:
                self.disk.remember(start.away)
            if start.step not in self.disk.steps:  # it comes back, and all others have gone on
                self.disk.save(self.disk.restore(max(self.disk.steps))._replace(step=jnp.int32(start.step)))
        state = self.disk.restore(start.step)
        self.network.durable(self.disk.steps)
        log.info("%s goes on from step %d, epoch %d", self.party, start.step, start.epoch)
        return state, start.step

    def batch(self, step: int) -> Mapping[str, PyTree]:
        """The records of a step of training."""
        start = self.network.member.start
        size, turns, counts = self.agreed["batch"], self.turns, start.records if start else {}
        client = turns.client(step)
        records, count = self.records[turns.names[client]], counts.get(turns.names[client])
        if records.batches is not None:
            found = dict(records.batches(step))
        elif not records.fields:
            return {}
        elif count is None or count < size:
            raise ValueError(f"there are {count or 0} records{of(turns.names[client])}, a batch takes {size}.")
        else:
            found = records.take(places_of(turns.steps_of(client, step), count, size, self.agreed["seed"]))
        check_size(found, size)
        return found

    def hand_over(self, state: PartyState, step: int) -> PartyState:
        """Before a step: give what this party's role has learned to who plays it next, or take it from who played it."""
        first = len(self.turns.names) * len(self.local.wires)
        for place, hand in self.turns.hands_of(self.party, step):
            if hand.sender == self.party:
                self.network.send(first + place, step, 0, learned(state))
            else:
                state = taken(state, self.network.take(first + place, step, 0))
        return state

    def keep_pace(self, step: int, asked: Callable[[], bool]) -> None:
        """Before a checkpoint: a party that has no turn waits until all have the one before, or until it is asked to stop."""
        last, member = step // self.agreed["checkpoint"] * self.agreed["checkpoint"], self.network.member
        if not self.turns.works(self.party, step):
            what = f"its turn: not all have come to step {last}"
            self.network.until(lambda: asked() or member.committed >= last, what, self.agreed.parties)


def bytes_of(arrays: Shapes) -> int:
    return sum(prod(shape) * dtype.itemsize for dtype, shape in arrays)


def of(client: str) -> str:
    return f" of `{client}`" if client else ""


def records_of(agreed: Agreement, party: str, fields: Sequence[str], data: Any, ids: Any) -> dict[str, Records]:
    """A party's records, by client: its own, or those that it has of each if it is always there.

    Raises:
        ValueError: naming the field or the client that is missing.
    """
    turns = agreed.turns
    own = turns.client_of(party)
    each = own is None and agreed["turns"] is not None and not callable(data) and bool(fields)
    found = {}
    for client in turns.names if own is None else (turns.names[own],):
        given: Any = {} if data is None else data
        its = ids
        if each:
            if client not in given:
                raise ValueError(f"`data` lacks the client `{client}`: `{party}` holds fields of each.")
            given, its = given[client], ids and ids[client]
        if not callable(given) and (missing := [f for f in fields if f not in given]):
            has = ", ".join(given) or "none"
            raise ValueError(f"`data`{of(client)} lacks the field `{missing[0]}`, which `{party}` holds; it has {has}.")
        mine = given if callable(given) else {f: given[f] for f in fields}
        found[client] = Records(mine, its if fields else None, key=agreed.schema)  # type: ignore[arg-type]
    return found


@contextmanager
def joined(
    agreed: Agreement, party: str, own: Own, task: str, steps: int, sizes: Callable[[int], int], *, credentials: Trust,
    data: Mapping[str, PyTree] | Batches | None = None, ids: Sequence[Any] | None = None,
    optimizer: optax.GradientTransformation | None = None, links: Mapping[str, Link] | None = None,
    backward: str = "residuals", checkpoint: str | os.PathLike | None = None, state: PartyState | None = None,
    keep_replies: bool = True, network: Mapping[str, Any],
) -> Iterator[Process]:  # fmt: skip
    """A party that has built its part, and is reachable.

    Args:
        task: what all are to be at; `steps`: how many it has, each with `sizes(step)` records at a time.
        others: as for `jsplit.party.run`.
    """
    local = Local(agreed, party, own, optimizer, links, backward)
    turns, fields = agreed.turns, local.fields(task.split()[0])
    if task != "train" and len(turns.names) > 1:
        raise ValueError(f"`agreed` is of several clients: say whose with agreed.of, for one of {', '.join(turns.names)}.")
    records = records_of(agreed, party, fields, data, ids)
    one = next(iter(records.values()))
    first = dict(one.batches(0)) if one.batches else {f: jax.tree.map(lambda x: x[:1], v) for f, v in one.fields.items()}
    whole = {f: jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), x.dtype) for f, x in first.items() if hasattr(x, "dtype")}
    like = local.init(whole if len(whole) == len(first) else first)
    disk = Disk(checkpoint, party, agreed.schema, like) if checkpoint is not None else InMemory()
    if not disk.steps and (isinstance(disk, InMemory) or not disk.found()):
        disk.save(state or like)
    said = agreed.said | {"task": task}
    parties, wires, handed = agreed.parties, len(local.wires), shapes_of_learned(like)
    crossings, largest = turns.crossings(local.wires), turns.largest
    if largest and turns.client_of(party) is not None and (size := bytes_of(handed)) > largest:
        raise ValueError(f"`turns` allows {largest} bytes to be handed over, `{party}` has {size}: say so with `largest`.")

    def shape_of(crossing: int, step: int) -> tuple:
        return handed if crossings[crossing].kind == "weights" else shapes.arrays(local.like(crossing % wires, sizes(step))[0])

    def uses(crossing: int, step: int, away: Away) -> int:
        return turns.without(away).uses(wires, crossing, step)

    run = sha256(canonical(said).encode()).digest()
    micros = agreed["microbatches"] if task == "train" else 1
    clients = tuple(tuple(parties.index(p) for p in cast.values()) for cast in turns.clients.values()) if turns.skips else ()
    lag = agreed["staleness"] if task == "train" else 0
    terms = Terms(
        run, parties, crossings, shape_of, steps, micros, 2 + 2 * lag, clients=clients, uses=uses, lag=lag,
        finite=agreed["nonfinite"] == "refuse",
    )  # fmt: skip
    limit = max(largest, *[bytes_of(shape_of(w, 0)) for w in range(wires)])
    durable = disk.steps if task == "train" else (0,)
    said_of = {client: (r.count, r.digest) for client, r in records.items() if r.count is not None}
    status = Status(time.time_ns(), 0, tuple(durable), said_of)
    reach, me = agreed.reach(party), parties.index(party)
    direct = frozenset(parties.index(p) for p, how in reach.items() if how != "lead")
    seals = None
    if "lead" in reach.values():
        from jsplit.wire.seal import Sealer

        names = [identity_of(agreed, p, credentials) for p in parties]
        seals = Sealer(credentials, names.__getitem__, run, me, status.instance, limit)
    member = Member(terms, me, parties.index(agreed["lead"]), status, said, direct, keep_replies, seals, disk.away())
    connected = Network(agreed, party, member, credentials, max(limit + (1 << 18), 1 << 20), **network)
    try:
        yield Process(agreed, party, local, records, disk, connected, terms, turns)
    finally:
        connected.close()
