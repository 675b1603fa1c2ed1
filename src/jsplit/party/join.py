"""One party before its first step: its part of the computation built, its records in order, its connections up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

import jax
import numpy as np
import optax

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.party.compute.handover import shapes_of_learned
from jsplit.party.compute.local import Local
from jsplit.party.connection.connections import identity_of
from jsplit.party.connection.network import Network, Reach
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement import Agreement, canonical
from jsplit.party.contract.records import Batches, Records
from jsplit.party.durable import Disk, InMemory
from jsplit.party.process import Own, PartyRun, of
from jsplit.wire import codec
from jsplit.wire.certs import Trust
from jsplit.wire.codec import Shapes
from jsplit.wire.control import Status
from jsplit.wire.member import Member
from jsplit.wire.relay import OVERHEAD
from jsplit.wire.terms import Terms


@dataclass
class Prepared:
    """A party that has built its part, and that no one can reach yet.

    Attributes:
        local, records, disk: its part, its records by client, its checkpoints.
        member: its side of the protocol.
        limit: the most bytes that the arrays of one frame may take.
    """

    agreed: Agreement
    party: str
    credentials: Trust
    local: Local
    records: Mapping[str, Records]
    disk: Disk | InMemory
    member: Member
    limit: int

    @contextmanager
    def connected(self, **network: Any) -> Iterator[PartyRun]:
        """The party, reachable; `network` as for `jsplit.party.connection.network.Reach`."""
        made = Network(
            self.agreed,
            self.party,
            self.member,
            self.credentials,
            self.limit,
            Reach(**network),
        )
        try:
            yield PartyRun(
                self.agreed,
                self.party,
                self.local,
                self.records,
                self.disk,
                made,
                self.agreed.turns,
            )
        finally:
            made.close()


def _records_of(
    agreed: Agreement, party: str, fields: Sequence[str], data: Any, ids: Any
) -> dict[str, Records]:
    """A party's records, by client: its own, or those that it has of each if it is always there.

    Raises:
        ValueError: naming the field or the client that is missing.
    """
    turns = agreed.turns
    own = turns.client_of(party)
    each = (
        own is None
        and agreed["turns"] is not None
        and not callable(data)
        and bool(fields)
    )
    found = {}
    for client in turns.names if own is None else (turns.names[own],):
        given: Any = {} if data is None else data
        its = ids[client] if isinstance(ids, Mapping) and own is None else ids
        if each:
            if client not in given:
                raise ValueError(
                    f"`data` lacks the client `{client}`: `{party}` holds fields of each."
                )
            given = given[client]
        if not callable(given) and (missing := [f for f in fields if f not in given]):
            has = ", ".join(given) or "none"
            raise ValueError(
                f"`data`{of(client)} lacks the field `{missing[0]}`, which `{party}` holds; it has {has}."
            )
        mine = given if callable(given) else {f: given[f] for f in fields}
        found[client] = Records(mine, its, key=agreed.schema)  # type: ignore[arg-type]
    return found


@contextmanager
def prepare(
    agreed: Agreement,
    party: str,
    own: Own,
    task: str,
    steps: int,
    sizes: Callable[[int], int],
    *,
    credentials: Trust,
    data: Mapping[str, PyTree] | Batches | None = None,
    ids: Sequence[Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    links: Mapping[str, Link] | None = None,
    backward: str = "residuals",
    checkpoint: str | os.PathLike | None = None,
    state: PartyState | None = None,
    keep_replies: bool = True,
) -> Iterator[Prepared]:
    """A party that has built its part, and found that it fits the agreement.

    Args:
        task: what all are to be at; `steps`: how many it has, each with `sizes(step)` records at a time.
        others: as for `jsplit.party.run`.
    """
    local = Local(agreed, party, own, optimizer, links, backward)
    turns, fields = agreed.turns, local.fields(task.split()[0])
    if task != "train" and len(turns.names) > 1:
        raise ValueError(
            f"`agreed` is of several clients: say whose with agreed.of, for one of {', '.join(turns.names)}."
        )
    records = _records_of(agreed, party, fields, data, ids)
    one = next(iter(records.values()))
    first = (
        dict(one.batches(0))
        if one.batches
        else {f: jax.tree.map(lambda x: x[:1], v) for f, v in one.fields.items()}
    )
    whole = {
        f: jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), x.dtype)
        for f, x in first.items()
        if hasattr(x, "dtype")
    }
    like = local.init(whole if len(whole) == len(first) else first)
    parties, wires, handed = agreed.parties, len(local.wires), shapes_of_learned(like)
    crossings, largest, me = (
        turns.crossings(local.wires),
        turns.largest,
        agreed.parties.index(party),
    )

    def shapes_at(size: int) -> tuple[Shapes, ...]:
        own = [shapes.arrays(local.like(w, size)[0]) for w in range(wires)]
        # Each client has the wires of the step, and then come the hand-overs.
        handovers = len(crossings) - wires * len(turns.names)
        return (*own * len(turns.names), *[handed] * handovers)

    first_size, last_size = sizes(0), sizes(steps - 1)
    all_shapes = shapes_at(first_size)
    last_shapes = shapes_at(last_size) if last_size != first_size else ()

    for place, crossing in enumerate(crossings):
        if crossing.kind != "weights" or me in (crossing.sender, crossing.receiver):
            codec.check(all_shapes[place], f"{crossing.kind} `{crossing.what}`")
    if (
        largest
        and turns.client_of(party) is not None
        and (size := _bytes_of(handed)) > largest
    ):
        raise ValueError(
            f"`turns` allows {largest} bytes to be handed over, `{party}` has {size}: say so with `largest`."
        )
    said = agreed.said | {"task": task}
    run = sha256(canonical(said).encode()).digest()
    micros = agreed["microbatches"] if task == "train" else 1
    clients = (
        tuple(
            tuple(parties.index(p) for p in cast.values())
            for cast in turns.clients.values()
        )
        if turns.skips
        else ()
    )
    lag = agreed["staleness"] if task == "train" else 0
    terms = Terms(
        run,
        parties,
        crossings,
        all_shapes,
        steps,
        micros,
        2 + 2 * lag,
        clients=clients,
        schedule=turns.schedule(wires),
        lag=lag,
        finite=agreed["nonfinite"] == "refuse",
        last_shapes=last_shapes,
    )
    limit = max(largest, *map(_bytes_of, all_shapes[:wires]))
    said_of = {
        client: (r.count, r.digest)
        for client, r in records.items()
        if r.count is not None
    }
    reach = agreed.reach(party)
    direct = frozenset(parties.index(p) for p, how in reach.items() if how != "lead")
    with closing(
        Disk(checkpoint, party, agreed.schema, like)
        if checkpoint is not None
        else InMemory()
    ) as disk:
        if not disk.steps:
            disk.save(state or like)
        status = Status(
            disk.instance, 0, tuple(disk.steps) if task == "train" else (0,), said_of
        )
        seals = None
        if "lead" in reach.values():
            from jsplit.wire.seal import Sealer

            names = [identity_of(agreed, p, credentials) for p in parties]
            seals = Sealer(credentials, parties, names, run, me, status.instance, limit)
        member = Member(
            terms,
            me,
            parties.index(agreed["lead"]),
            status,
            said,
            direct,
            keep_replies,
            seals,
            disk.away(),
        )
        yield Prepared(
            agreed, party, credentials, local, records, disk, member, limit + OVERHEAD
        )


def _bytes_of(arrays: Shapes) -> int:
    return sum(prod(shape) * dtype.itemsize for dtype, shape in arrays)
