"""One party's process, before its first step: its part of the computation built, its records in order, its connections up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from typing import Any

import jax
import numpy as np
import optax

from jsplit.base import Link, PartyState, PyTree, Segment
from jsplit.party import shapes
from jsplit.party.agreement import Agreement, canonical
from jsplit.party.durable import Disk, InMemory
from jsplit.party.local import Local, check_size
from jsplit.party.network import Network, identity_of
from jsplit.party.records import Batches, Records, places_of
from jsplit.topology import Topology
from jsplit.wire.certs import Trust
from jsplit.wire.member import Member
from jsplit.wire.rendezvous import Status
from jsplit.wire.session import Crossing, Terms

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
    """

    state: PartyState
    step: int
    losses: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, PyTree] = field(default_factory=dict)
    stopped: bool = False
    epoch: int = 0


@dataclass
class Process:
    """A party with its connections, before and between its steps."""

    agreed: Agreement
    party: str
    local: Local
    records: Records
    disk: Disk | InMemory
    network: Network
    terms: Terms

    def batch(self, step: int, count: int | None) -> Mapping[str, PyTree]:
        """The records of a step of training."""
        size = self.agreed["batch"]
        if self.records.batches is not None:
            found = dict(self.records.batches(step))
        elif not self.records.fields:
            return {}
        elif count is None or count < size:
            raise ValueError(f"there are {count or 0} records, a batch takes {size}.")
        else:
            found = self.records.take(places_of(step, count, size, self.agreed["seed"]))
        check_size(found, size)
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
    fields = local.fields(task.split()[0])
    if data is None:
        data = {}
    if not callable(data) and (missing := [f for f in fields if f not in data]):
        raise ValueError(f"`data` lacks the field `{missing[0]}`, which `{party}` holds; it has {', '.join(data) or 'none'}.")
    mine = data if callable(data) else {f: data[f] for f in fields}
    records = Records(mine, ids if fields else None, key=agreed.schema)
    first = dict(mine(0)) if callable(mine) else {f: jax.tree.map(lambda x: x[:1], v) for f, v in mine.items()}
    whole = {f: jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), x.dtype) for f, x in first.items() if hasattr(x, "dtype")}
    like = local.init(whole if len(whole) == len(first) else first)
    disk = Disk(checkpoint, party, agreed.schema, like) if checkpoint is not None else InMemory()
    if not disk.steps and (isinstance(disk, InMemory) or not disk.found()):
        disk.save(state or like)
    said = agreed.said | {"task": task}
    parties = agreed.parties
    crossings = tuple(Crossing(w.kind, w.what, parties.index(w.sender), parties.index(w.receiver)) for w in local.wires)

    def shape_of(wire: int, step: int) -> tuple:
        return shapes.arrays(local.like(wire, sizes(step))[0])

    run = sha256(canonical(said).encode()).digest()
    terms = Terms(run, parties, crossings, shape_of, steps, agreed["microbatches"] if task == "train" else 1)
    limit = max([sum(prod(s) * d.itemsize for d, s in shape_of(w, 0)) for w in range(len(crossings))], default=0)
    durable = disk.steps if task == "train" else (0,)
    status = Status(time.time_ns(), 0, tuple(durable), records.count, records.digest)
    reach, me = agreed.reach(party), parties.index(party)
    direct = frozenset(parties.index(p) for p, how in reach.items() if how != "lead")
    seals = None
    if "lead" in reach.values():
        from jsplit.wire.seal import Sealer

        names = [identity_of(agreed, p, credentials) for p in parties]
        seals = Sealer(credentials, names.__getitem__, run, me, status.instance, limit)
    member = Member(terms, me, parties.index(agreed["lead"]), status, said, direct, keep_replies, seals)
    connected = Network(agreed, party, member, credentials, max(limit + (1 << 18), 1 << 20), **network)
    try:
        yield Process(agreed, party, local, records, disk, connected, terms)
    finally:
        connected.close()
