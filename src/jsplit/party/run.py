"""One party's process: its own data, its own segments, and the others over the network."""

from __future__ import annotations

import json
import logging
import os
import threading
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
from jsplit.party.durable import Disk, InMemory, newest
from jsplit.party.local import Local, check_size
from jsplit.party.network import Network, RolledBack, identity_of
from jsplit.party.records import Batches, Records, places_of
from jsplit.topology import Topology
from jsplit.wire.certs import Trust
from jsplit.wire.member import Member, Status
from jsplit.wire.session import Crossing, Terms

log = logging.getLogger("jsplit.party")


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
    agreed: Agreement, party: str, own: Mapping[str, Segment | Callable] | Topology, task: str, steps: int,
    optimizer: optax.GradientTransformation | None, data: Mapping[str, PyTree] | Batches | None,
    ids: Sequence[Any] | None, credentials: Trust, checkpoint: str | os.PathLike | None, links: Mapping[str, Link] | None,
    backward: str, cache: bool, state: PartyState | None, sizes: Callable[[int], int], network: Mapping[str, Any],
) -> Iterator[Process]:  # fmt: skip
    """A party that has built its part, and is reachable."""
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
    member = Member(terms, me, parties.index(agreed["lead"]), status, said, direct, cache, seals)
    connected = Network(agreed, party, member, credentials, max(limit + (1 << 18), 1 << 20), **network)
    try:
        yield Process(agreed, party, local, records, disk, connected, terms)
    finally:
        connected.close()


def run(
    agreed: Agreement,
    party: str,
    own: Mapping[str, Segment | Callable] | Topology,
    data: Mapping[str, PyTree] | Batches | None = None,
    *,
    credentials: Trust,
    optimizer: optax.GradientTransformation | None = None,
    ids: Sequence[Any] | None = None,
    checkpoint: str | os.PathLike | None = None,
    links: Mapping[str, Link] | None = None,
    backward: str = "residuals",
    on_step: Callable[[Metrics], Any] | None = None,
    stop: threading.Event | None = None,
    keep_replies: bool = True,
    **network: Any,
) -> Result:
    """Train: this party's part of every step, with the others over the network, until all have done the agreed steps.

    Equals `jsplit.messages` of the whole topology, bit for bit, whatever connections are cut and whichever parties are
    killed and started again on the way.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        own: its segments and loss functions, by name, or a topology that has them.
        data: its fields, [record, ...], or `batch(step)`.
        credentials: its certificate and key, `jsplit.wire.certs.read`.
        optimizer: its own, if it has parameters.
        ids: of its records; all parties must have the same.
        checkpoint: its own folder; without one, this party's own death is not made good.
        links: links by the names that the agreement gives them, beyond those of `jsplit.compress`.
        backward: mode, as for `jsplit.fused`.
        on_step: called with the `Metrics` of every step.
        stop: when set, the party ends after the step it is in, with a checkpoint; started again, it goes on.
        keep_replies: keep what was sent until the receiver has it. Only a test switches this off.
        network: `listen`, `addresses`, `remind`, `pulse`; see `jsplit.party.network.Network`.

    Raises:
        ValueError: naming the argument that does not fit the agreement.
        Refused: if the parties do not agree, in one line.
        Missing: if a party did not come, or come back, for as long as agreed.
    """
    steps = agreed["steps"]
    size = agreed["batch"] // agreed["microbatches"]
    given = (optimizer, data, ids, credentials, checkpoint, links, backward, keep_replies, None, lambda step: size)
    with joined(agreed, party, own, "train", steps, *given, network=network) as me:
        losses: dict[int, dict[str, float]] = {}
        failed = 0
        while True:
            me.network.start()
            start = me.network.member.start
            assert start is not None
            try:
                state = me.disk.restore(start.step)
                me.network.durable(me.disk.steps)
                log.info("%s goes on from step %d, epoch %d", party, start.step, start.epoch)
                for step in range(start.step, steps):
                    state, metrics = one_step(me, state, step, start.records)
                    losses[step] = dict(metrics.losses)
                    if on_step:
                        on_step(metrics)
                    asked = stop is not None and stop.is_set()
                    if (step + 1) % agreed["checkpoint"] == 0 or step + 1 == steps or asked:
                        failed = saved(me, state, failed)
                    if asked:
                        me.network.leave(f"`{party}` was asked to stop after step {step + 1}.")
                        return Result(state, step + 1, of_all(losses), stopped=True, epoch=start.epoch)
                me.network.until(
                    lambda: me.network.member.committed >= steps, "all to have saved the last step", agreed.parties
                )  # fmt: skip
                me.disk.keep_from(steps)
                me.network.leave("")
                return Result(state, steps, of_all(losses), epoch=start.epoch)
            except RolledBack:
                log.info("%s goes back: another party has come back", party)


def one_step(me: Process, state: PartyState, step: int, count: int | None) -> tuple[PartyState, Metrics]:
    """One step, and what it took."""
    net, began = me.network, time.monotonic()
    sent, received, waited, posting = net.sent, net.received, net.waited, net.posting
    batch = me.batch(step, count)
    state, found = me.local.step(state, batch, step, net)
    losses = {n: float(x) for n, x in found.items()}
    jax.block_until_ready(state.step)
    net.finished(step)
    seconds, wait, wire = time.monotonic() - began, net.waited - waited, net.posting - posting
    took = (seconds, max(seconds - wait - wire, 0.0), wire, wait)
    metrics = Metrics(step + 1, losses, net.sent - sent, net.received - received, *took, net.epoch)
    log.debug("%s", json.dumps({"party": me.party, **metrics.__dict__}))
    return state, metrics


def saved(me: Process, state: PartyState, failed: int) -> int:
    """Save a checkpoint, and delete what all are past. Gives how many times in a row that has failed."""
    try:
        me.disk.save(state)
    except OSError as error:
        if failed:
            raise
        log.error("%s could not save step %d, older checkpoints are whole: %s", me.party, int(state.step), error)
        return failed + 1
    me.disk.keep_from(me.network.committed())
    me.network.durable(me.disk.steps)
    return 0


def of_all(losses: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    names = next(iter(losses.values()), {})
    return {n: [losses[s][n] for s in sorted(losses)] for n in names}


def infer(
    task: str, agreed: Agreement, party: str, own: Mapping[str, Segment | Callable] | Topology,
    data: Mapping[str, PyTree] | None, records: int, credentials: Trust, ids: Sequence[Any] | None, state: PartyState | None,
    checkpoint: str | os.PathLike | None, links: Mapping[str, Link] | None, network: Mapping[str, Any],
) -> Result:  # fmt: skip
    """Forward passes over all records, in the shared order, `batch` at a time."""
    if (state is None) == (checkpoint is None):
        raise ValueError("`state` or `checkpoint` must be given, and not both.")
    size = agreed["batch"]
    steps = -(-records // size)

    def size_of(step: int) -> int:
        return min(size, records - step * size)

    given = (optax.identity(), data, ids, credentials, None, links, "residuals", True, state, size_of)
    with joined(agreed, party, own, f"{task} {records}", steps, *given, network=network) as me:
        if me.records.count not in (None, records):
            raise ValueError(f"`records` is {records}, `data` has {me.records.count}.")
        if checkpoint is not None:
            state = newest(checkpoint, party, agreed.schema, me.disk.restore(0))
        assert state is not None
        while True:
            me.network.start()
            try:
                found = []
                for step in range(steps):
                    batch = me.records.take(np.arange(step * size, step * size + size_of(step)))
                    work = me.local.predict if task == "predict" else me.local.evaluate
                    found.append(jax.tree.map(np.asarray, work(state, batch, step, size_of(step), me.network)))
                    me.network.finished(step)
                me.network.durable([0, steps])
                me.network.until(lambda: me.network.member.committed >= steps, "all to be done", agreed.parties)
                me.network.leave("")
                break
            except RolledBack:
                continue
        if task == "predict":
            outputs = jax.tree.map(lambda *x: np.concatenate(x), *found)
            return Result(state, int(state.step), outputs=me.records.back(outputs))
        weights = np.array([size_of(s) for s in range(steps)]) / records
        means = {n: float(sum(w * x[n] for w, x in zip(weights, found, strict=True))) for n in found[0]}
        return Result(state, int(state.step), means)


def evaluate(
    agreed: Agreement, party: str, own: Mapping[str, Segment | Callable] | Topology,
    data: Mapping[str, PyTree] | None = None, *, records: int, credentials: Trust, ids: Sequence[Any] | None = None,
    state: PartyState | None = None, checkpoint: str | os.PathLike | None = None, links: Mapping[str, Link] | None = None,
    **network: Any,
) -> Result:  # fmt: skip
    """The means of all losses over some records, in inference mode; every party calls it at the same time.

    Args:
        records: how many there are, as all parties must say.
        state: of this party, as from `run`; or `checkpoint`: its folder, of which the newest is taken.
        agreed, party, own, data, credentials, ids, links, network: as for `run`.

    Returns:
        A `Result` with the means of the losses that this party computes.
    """
    return infer("evaluate", agreed, party, own, data, records, credentials, ids, state, checkpoint, links, network)


def predict(
    agreed: Agreement, party: str, own: Mapping[str, Segment | Callable] | Topology,
    data: Mapping[str, PyTree] | None = None, *, records: int, credentials: Trust, ids: Sequence[Any] | None = None,
    state: PartyState | None = None, checkpoint: str | os.PathLike | None = None, links: Mapping[str, Link] | None = None,
    **network: Any,
) -> Result:  # fmt: skip
    """The outputs of the nodes that no other node reads, for some records; every party calls it at the same time.

    Args:
        as for `evaluate`.

    Returns:
        A `Result` with the outputs that this party computes, in the order in which it gave its records.
    """
    return infer("predict", agreed, party, own, data, records, credentials, ids, state, checkpoint, links, network)
