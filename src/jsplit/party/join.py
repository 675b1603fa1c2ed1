"""One party before its first step: its part is built, and found to fit the agreement.

`prepare` does all of that without any connection; `Prepared.connected` makes these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import cast

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract
from jsplit.party.compute.handover import shapes_of_learned
from jsplit.party.compute.local import Local
from jsplit.party.compute.warming import Warming
from jsplit.party.connection.connections import identity_of
from jsplit.party.connection.network import Network
from jsplit.party.connection.reach import Reach
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.field_types import check_dtypes
from jsplit.party.contract.record_order import Id, Records
from jsplit.party.crossings_of_run import Frames
from jsplit.party.durable import Checkpoints, CheckpointStore
from jsplit.party.in_memory import InMemory
from jsplit.party.process import PartyRun, of_client
from jsplit.party.saved_states import SavedStates
from jsplit.party.task import Brought, Data, Ids, Task, TaskKind
from jsplit.party.versions import own_versions
from jsplit.wire.certs import Trust
from jsplit.wire.control import Status
from jsplit.wire.member import Member
from jsplit.wire.relay import OVERHEAD, Seals


@dataclass
class Prepared:
    """A party that has built its part, and that no one can reach yet.

    Attributes:
        agreed: what the parties have agreed on.
        party: this one.
        credentials: its certificate and key.
        local: its part of the computation.
        records: its records, by client.
        store: its checkpoints.
        saved: of inference, the checkpoints in the folder that it was given.
        member: its side of the protocol.
        limit: the most bytes that the arrays of one frame may take.
        warming: its programs, to be compiled.
    """

    agreed: Agreement
    party: str
    credentials: Trust
    local: Local
    records: Mapping[str, Records]
    store: Checkpoints
    saved: SavedStates | None
    member: Member
    limit: int
    warming: Warming

    @contextmanager
    def connected(self, reach: Reach) -> Iterator[PartyRun]:
        """The party with its connections, which are closed in the end.

        Args:
            reach: where it listens and whom it dials where.

        Yields:
            The party, reachable.
        """
        network = Network(
            self.agreed, self.party, self.member, self.credentials, self.limit, reach
        )
        try:
            yield PartyRun(
                self.agreed,
                self.party,
                self.local,
                self.records,
                self.store,
                network,
                self.agreed.turns,
                self.warming,
            )
        finally:
            network.close()


@contextmanager
def prepare(
    agreed: Agreement, party: str, task: Task, brought: Brought
) -> Iterator[Prepared]:
    """Build a party's part, and find whether it fits the agreement.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        task: what all are to be at.
        brought: what the party brings.

    Yields:
        The party; its folder is let go of in the end.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    local = Local(
        agreed,
        party,
        brought.own,
        brought.optimizer,
        brought.links,
        brought.backward,
        brought.kernels,
    )
    clients = agreed.turns.names
    if task.kind is not TaskKind.TRAIN and len(clients) > 1:
        raise ValueError(
            "`agreed` is of several clients: say whose with agreed.of, "
            f"for one of {', '.join(clients)}."
        )
    fields = local.fields(task.kind)
    records = _records_of(agreed, party, fields, brought.data, brought.ids)
    first = _example_of(next(iter(records.values())))
    # Of a function of the step too, before anybody is connected.
    check_dtypes(agreed.fields, first, party)
    like = local.init({f: x for f, x in first.items() if f != agreed.weight})
    frames = Frames(agreed, party, task, local, shapes_of_learned(like))
    frames.check()
    store: Checkpoints = InMemory()
    saved = None
    if brought.checkpoint is not None and task.kind is TaskKind.TRAIN:
        store = CheckpointStore(brought.checkpoint, party, agreed.schema, like)
    elif brought.checkpoint is not None:
        # The folder may be in use by a process that trains, and is only read.
        saved = SavedStates(brought.checkpoint, party, agreed.schema, like)
    # From here on: whatever goes wrong, another process must be able to have the folder.
    with closing(store):
        if not store.steps:
            store.save(brought.state or like)
        durable = saved.steps if saved is not None else store.steps
        member = _member(frames, brought, records, store, durable)
        # A frame that was sealed for its way through the lead is a little longer.
        limit = frames.limit + OVERHEAD
        yield Prepared(
            agreed,
            party,
            brought.credentials,
            local,
            records,
            store,
            saved,
            member,
            limit,
            Warming(local, task, abstract(like), first),
        )


def _records_of(
    agreed: Agreement,
    party: str,
    fields: Sequence[str],
    data: Data | None,
    ids: Ids | None,
) -> dict[str, Records]:
    """A party's records, by client: its own, or of each if it is always there.

    Raises:
        ValueError: naming the field or the client that is missing.
    """
    turns = agreed.turns
    own = turns.client_of(party)
    clients = turns.names if own is None else (turns.names[own],)
    # A party without fields gives nothing by client, and a function of the step is of
    # whose turn it is.
    takes_turns = agreed.rotation is not None and own is None
    by_client = takes_turns and not callable(data) and bool(fields)
    found = {}
    for client in clients:
        given: Data = {} if data is None else data
        if by_client and not callable(given):
            if client not in given:
                raise ValueError(
                    f"`data` lacks the client `{client}`: "
                    f"`{party}` holds fields of each."
                )
            given = given[client]
        if not callable(given):
            given = _chosen(given, fields, party, client)
            check_dtypes(agreed.fields, given, party)
        its = ids
        if isinstance(ids, Mapping) and own is None:
            if client not in ids:
                raise ValueError(f"`ids` lacks those of the client `{client}`.")
            its = ids[client]
        # Of a client they are one's own, and never by client.
        found[client] = Records(
            given,
            cast("Iterable[Id] | None", its),
            key=agreed.schema,
            weight=agreed.weight,
        )
    return found


def _chosen(
    given: Mapping[str, PyTree], fields: Sequence[str], party: str, client: str
) -> dict[str, PyTree]:
    """The fields that a task needs, of those that a party gives.

    Raises:
        ValueError: naming the one that is missing.
    """
    for field in fields:
        if field not in given:
            raise ValueError(
                f"`data`{of_client(client)} lacks the field `{field}`, "
                f"which `{party}` holds; it has {', '.join(given) or 'none'}."
            )
    return {field: given[field] for field in fields}


def _example_of(records: Records) -> dict[str, PyTree]:
    """Fields from which a party's first state can be made: shapes alone, if possible."""
    if records.batches:
        first = records.given(0)
    else:
        first = {f: jax.tree.map(lambda x: x[:1], v) for f, v in records.fields.items()}
    shapes = {}
    for field, x in first.items():
        # The size of a batch is the agreement's, so one record says all; only a field
        # that is a tree of arrays must be looked at as it is.
        if hasattr(x, "dtype"):
            shapes[field] = jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), x.dtype)
    return shapes if len(shapes) == len(first) else first


def _member(
    frames: Frames,
    brought: Brought,
    records: Mapping[str, Records],
    store: Checkpoints,
    durable: Sequence[int],
) -> Member:
    """The party's side of the protocol, as it stands before the first connection."""
    agreed, parties = frames.agreed, frames.agreed.parties
    reach = agreed.reach(frames.party)
    direct = [parties.index(p) for p, how in reach.items() if how != "lead"]
    counts = {}
    for client, its in records.items():
        # Who gives `batch(step)` has no number of records to compare.
        if its.count is not None:
            counts[client] = (its.count, its.digest)
    # The lead finds the newest that all have, to infer with as to train on from.
    status = Status(store.instance, 0, tuple(durable), counts, ready=False)
    relayed = "lead" in reach.values()
    return Member(
        frames.terms(),
        parties.index(frames.party),
        parties.index(agreed.lead),
        status,
        frames.said,
        frozenset(direct),
        brought.keep_replies,
        _sealer(frames, brought.credentials, status.instance) if relayed else None,
        store.away(),
        own_versions(),
    )


def _sealer(frames: Frames, credentials: Trust, instance: int) -> Seals:
    """What seals the frames that go by way of the lead, and opens those that come so."""
    # Here, since it needs `cryptography`, which parties that all reach each other do not.
    from jsplit.wire.seal import Sealer

    agreed, parties = frames.agreed, frames.agreed.parties
    identities = [identity_of(agreed, p, credentials) for p in parties]
    me = parties.index(frames.party)
    return Sealer(
        credentials, parties, identities, frames.run, me, instance, frames.limit
    )
