"""Forward passes over the network, in inference mode: mean losses, or outputs.

`evaluate` and `predict` are one loop over batches, with another program and another end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.core.checks import as_positive_int
from jsplit.party.compute.at_cut import check_at
from jsplit.party.connection.interrupts import Stopped, never
from jsplit.party.connection.reach import Reach
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.ids_key import IdsKey
from jsplit.party.contract.placeholders import Own
from jsplit.party.contract.record_order import Id
from jsplit.party.join import prepare
from jsplit.party.passes import means, passes
from jsplit.party.results import Result
from jsplit.party.task import INFERENCE, Brought, Task, TaskKind
from jsplit.training.metrics import compute_metrics
from jsplit.wire.certs import Trust
from jsplit.wire.transport import Transport


def evaluate(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | None = None,
    *,
    records: int,
    credentials: Trust,
    ids: Iterable[Id] | None = None,
    ids_key: IdsKey | None = None,
    state: PartyState | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    links: Mapping[str, Link] | None = None,
    stop: threading.Event | None = None,
    listen: str | None = None,
    addresses: Mapping[str, str] | None = None,
    remind: float = 5.0,
    pulse: Sequence[float] = (),
    transport: Transport | None = None,
    bound: Mapping[str, float] | None = None,
) -> Result:
    """Compute means of losses, and metrics, over some records, in inference mode.

    Every party calls it at the same time, each with its own part. All take their state
    of one step, the newest that all have.

    Args:
        agreed: what the parties have agreed on; where clients take turns, that of one
            client, `agreed.of(client)`.
        party: the name of this one.
        own: its segments, and functions of losses and metrics, by name, or a topology
            that has them.
        data: its fields by name, [record, ...].
        records: how many records there are, as all parties must say.
        credentials: its certificate and key, `jsplit.party.credentials`.
        ids: of its records, by which all bring them in one order; all parties must have
            the same.
        ids_key: a secret of those who hold records, bytes or the file that holds it: by
            it the digest is keyed by which ids are compared. It must be given where
            there are fewer than 32 and others have records too.
        state: of this party, as `jsplit.party.run` gives it.
        checkpoint: its folder, which is only read; instead of `state`.
        links: links by the names that the agreement gives them, beyond those that
            `jsplit.compress` makes.
        stop: when set, the party ends with a `Result` that is `stopped` and has nothing
            else than its state.
        listen: `host:port` where it listens, if not at the address that others dial.
        addresses: `host:port` by party, where one is dialled elsewhere than agreed.
        remind: seconds of waiting after which what may have been lost is asked for
            again.
        pulse: seconds of silence after which a connection is asked whether anybody is
            there, and seconds after which it is lost without an answer; by default 10
            and 60.
        transport: what carries frames; by default gRPC.
        bound: by the name of a value that this party receives, the largest L2 norm that
            a record of it may have; see `jsplit.party.run`.

    Returns:
        A `Result` with the means of the losses and the metrics of all records that this
        party computes, by name, and the step of the state.

    Raises:
        ValueError: naming the argument that does not fit the agreement.
        Refused: if the parties do not agree, or have no step in common, in one line.
        Missing: if a party did not come for as long as agreed.

    Example:
        >>> from jsplit import party
        >>> from jsplit.party.contract.sample import sample_agreement
        >>> party.evaluate(
        ...     sample_agreement(),
        ...     "client",
        ...     {},
        ...     records=8,
        ...     credentials=party.PlaintextWithoutIdentity("client"),
        ... )
        Traceback (most recent call last):
        ValueError: `state` or `checkpoint` must be given, and not both.
    """
    brought = Brought(
        own,
        credentials,
        data=data,
        ids=ids,
        ids_key=ids_key,
        optimizer=INFERENCE,
        links=links,
        checkpoint=checkpoint,
        state=state,
        bound=bound,
    )
    reach = Reach(
        listen=listen,
        addresses=addresses or {},
        remind=remind,
        pulse=pulse,
        transport=transport,
    )
    return _infer(TaskKind.EVALUATE, agreed, party, records, brought, reach, stop)


def predict(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | None = None,
    *,
    records: int,
    credentials: Trust,
    ids: Iterable[Id] | None = None,
    ids_key: IdsKey | None = None,
    state: PartyState | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    links: Mapping[str, Link] | None = None,
    stop: threading.Event | None = None,
    listen: str | None = None,
    addresses: Mapping[str, str] | None = None,
    remind: float = 5.0,
    pulse: Sequence[float] = (),
    transport: Transport | None = None,
    bound: Mapping[str, float] | None = None,
    at: str | Sequence[str] | None = None,
) -> Result:
    """Compute the outputs of the nodes that no other node reads, for some records.

    Every party calls it at the same time, each with its own part. All take their state
    of one step, the newest that all have.

    Args:
        agreed: what the parties have agreed on; where clients take turns, that of one
            client, `agreed.of(client)`.
        party: the name of this one.
        own: its segments by name, or a topology that has them.
        data: its fields by name, [record, ...].
        records: how many records there are, as all parties must say.
        credentials: its certificate and key, `jsplit.party.credentials`.
        ids: of its records, by which all bring them in one order; all parties must have
            the same.
        ids_key: a secret of those who hold records, bytes or the file that holds it: by
            it the digest is keyed by which ids are compared. It must be given where
            there are fewer than 32 and others have records too.
        state: of this party, as `jsplit.party.run` gives it.
        checkpoint: its folder, which is only read; instead of `state`.
        links: links by the names that the agreement gives them, beyond those that
            `jsplit.compress` makes.
        stop: when set, the party ends with a `Result` that is `stopped` and has nothing
            else than its state.
        listen: `host:port` where it listens, if not at the address that others dial.
        addresses: `host:port` by party, where one is dialled elsewhere than agreed.
        remind: seconds of waiting after which what may have been lost is asked for
            again.
        pulse: seconds of silence after which a connection is asked whether anybody is
            there, and seconds after which it is lost without an answer; by default 10
            and 60.
        transport: what carries frames; by default gRPC.
        bound: by the name of a value that this party receives, the largest L2 norm that
            a record of it may have; see `jsplit.party.run`.
        at: names of values that this party is sent, or of its outputs, to have these as
            it decodes them; the others need not know.

    Returns:
        A `Result` with the outputs that this party computes, by node, or with what `at`
        names: in the order in
        which it gave its records, or their ids if it has no field of them; without ids
        in the order that all share, by the ids of the others if these have any.

    Raises:
        ValueError: naming the argument that does not fit the agreement.
        Refused: if the parties do not agree, or have no step in common, in one line.
        Missing: if a party did not come for as long as agreed.

    Example:
        >>> from jsplit import party
        >>> from jsplit.party.contract.sample import sample_agreement
        >>> party.predict(
        ...     sample_agreement("north", "south"),
        ...     "north",
        ...     {"h": lambda x: x},
        ...     records=0,
        ...     credentials=party.PlaintextWithoutIdentity("north"),
        ...     checkpoint="state/north",
        ... )
        Traceback (most recent call last):
        ValueError: `records` must be a positive integer, got 0.
    """
    brought = Brought(
        own,
        credentials,
        data=data,
        ids=ids,
        ids_key=ids_key,
        optimizer=INFERENCE,
        links=links,
        checkpoint=checkpoint,
        state=state,
        bound=bound,
    )
    reach = Reach(
        listen=listen,
        addresses=addresses or {},
        remind=remind,
        pulse=pulse,
        transport=transport,
    )
    return _infer(TaskKind.PREDICT, agreed, party, records, brought, reach, stop, at)


def _infer(
    kind: TaskKind,
    agreed: Agreement,
    party: str,
    records: int,
    brought: Brought,
    reach: Reach,
    stop: threading.Event | None,
    at: str | Sequence[str] | None = None,
) -> Result:
    """Forward passes over all records, in the shared order, a batch at a time."""
    if (brought.state is None) == (brought.checkpoint is None):
        raise ValueError("`state` or `checkpoint` must be given, and not both.")
    if callable(brought.data):
        raise ValueError(
            f"`data` must be fields by name to {kind}, not a function of the step."
        )
    count = as_positive_int("records", records)
    # Rounded up: unlike training, inference takes the records that fill no batch too.
    steps = -(-count // agreed.batch)
    task = Task(kind, steps, agreed.batch, count)
    with prepare(agreed, party, task, brought) as prepared:
        # `prepare` has refused an agreement of several clients.
        [mine] = prepared.records.values()
        if mine.count not in (None, count):
            what = "data" if mine.fields else "ids"
            raise ValueError(f"`records` is {count}, `{what}` has {mine.count}.")
        names = None if at is None else check_at(prepared.local, at)
        has = prepared.store if prepared.saved is None else prepared.saved
        with prepared.connected(reach) as me:
            me.network.asked = never if stop is None else stop.is_set
            try:
                state, found = passes(me, task, mine, has.restore, names)
            except Stopped:
                newest = max(has.steps)
                return Result(has.restore(newest), newest, stopped=True)
    reached = int(state.step)
    if kind is TaskKind.PREDICT:
        outputs = jax.tree.map(lambda *x: np.concatenate(x), *found)
        return Result(state, reached, outputs=mine.back(outputs))
    local = prepared.local
    local.scalars.warn(steps, 4)
    losses, rows = zip(*found, strict=True)
    metrics = compute_metrics(local.topology, local.metrics, rows)
    # In the order in which all went through their records.
    counts = mine.take(np.arange(count)).get(agreed.weight)
    found = means(local.topology, task, losses, counts)
    return Result(state, reached, found, metrics=metrics)
