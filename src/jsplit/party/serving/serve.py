"""`jsplit.party.serve`: a party stays, and computes its part of what others ask."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.core.checks import as_positive_int, names_of, shown
from jsplit.core.ids import Id
from jsplit.party.connection.connections import identity_of
from jsplit.party.connection.reach import Reach, default_transport
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.placeholders import Own
from jsplit.party.serving.lines import LIMIT, Dialler
from jsplit.party.serving.opening import Limits
from jsplit.party.serving.served import Brought, holding_of
from jsplit.party.serving.server import Server
from jsplit.party.serving.words import Model
from jsplit.wire.certs import Trust
from jsplit.wire.open_files import raise_limit
from jsplit.wire.transport import Pulse, Transport

_log = logging.getLogger("jsplit.party")


@dataclass(frozen=True)
class Served:
    """What a party has served, when it was asked to stop.

    Attributes:
        model: with which it was.
        sessions: how many there have been.
        calls: how many calls it has computed its part of.
        evicted: how many sessions it has let go of because they were idle.

    Example:
        >>> from jsplit.party import Model, Served
        >>> Served(Model(7, "ab" * 32), sessions=2, calls=40, evicted=0).calls
        40
    """

    model: Model
    sessions: int
    calls: int
    evicted: int


def serve(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | None = None,
    *,
    credentials: Trust,
    ids: Iterable[Id] | None = None,
    state: PartyState | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    step: int | None = None,
    links: Mapping[str, Link] | None = None,
    sessions: int = 16,
    length: int = 2048,
    batch: int = 64,
    idle: float = 600.0,
    together: int = 16,
    batch_wait: float = 0.0,
    askers: Sequence[str] | None = None,
    stop: threading.Event | None = None,
    listen: str | None = None,
    addresses: Mapping[str, str] | None = None,
    pulse: Sequence[float] = (),
    transport: Transport | None = None,
) -> Served:
    """Serve what was trained: compute this party's part of what others ask.

    All parties but the one that asks call it, each with its own part, its own state and
    an address at which it is dialled. Any party of the agreement may ask, by
    `jsplit.party.session`. Sessions have caches of their own here. The next positions of
    sessions of one `batch` and `length`, and calls of as many records, that wait are
    computed in one run, equal to rounding to each by itself; what is longer, and what is
    sent through a link that draws secret noise, one after the other.

    Args:
        agreed: what the parties have agreed on, as for training.
        party: the name of this one.
        own: its segments by name, or a topology that has them; those with a cache
            (`jsplit.with_cache`) also compute sequences. Losses are left out.
        data: its fields by name, [record, ...], if it holds some that its segments
            read. Whoever asks names records by their ids.
        credentials: its certificate and key, `jsplit.party.credentials`.
        ids: of its records, in their order.
        state: of this party, as `jsplit.party.run` gives it. All must be of one step.
        checkpoint: its folder, of which the newest is taken; instead of `state`.
        step: of `checkpoint`, which step is taken instead of the newest.
        links: links by the names that the agreement gives them, beyond those that
            `jsplit.compress` makes.
        sessions: how many there may be at a time; one more is refused, unless some are
            idle.
        length: the most positions of a sequence. A session has a cache so long as it
            asked for: `sessions`, `length` and `batch` together bound the memory, to two
            such caches a session, and these once more while some are computed or moved.
        batch: the most sequences of a session, or records of a call.
        idle: seconds without a call after which a session is let go of. Whoever asks
            in it then begins it again, by itself.
        together: how many sessions are computed in one run, at most; 1: each by itself,
            bit for bit as if it were alone.
        batch_wait: seconds that a call waits for others to be computed with. By default
            it is computed with those that have come by then, and waits for none.
        askers: the parties that may ask; by default those that hold fields that segments
            read. Answers go to them alone.
        stop: when set, it ends all connections and returns; by default it stays.
        listen: `host:port` where it listens, if not at the address that others dial.
        addresses: `host:port` by party, where one is dialled elsewhere than agreed.
        pulse: seconds of silence after which a connection is asked whether anybody is
            there, and seconds after which it is lost without an answer; by default 10
            and 60.
        transport: what carries frames; by default gRPC.

    Returns:
        What it has served.

    Raises:
        ValueError: naming the argument that does not fit the agreement.
        NotYet: if the address cannot be listened at now.

    Example:
        >>> from jsplit import party
        >>> from jsplit.party.contract.sample import sample_agreement
        >>> party.serve(
        ...     sample_agreement(),
        ...     "server",
        ...     {},
        ...     credentials=party.PlaintextWithoutIdentity("server"),
        ... )
        Traceback (most recent call last):
        ValueError: `state` or `checkpoint` must be given, and not both.
    """
    limits = _limits(
        agreed, party, (sessions, length, batch), askers, together, batch_wait
    )
    if not idle > 0:
        raise ValueError(f"`idle` must be positive seconds, got {shown(idle)}.")
    reach = Reach(listen, addresses or {}, pulse=pulse, transport=transport)
    holding = holding_of(_read_of(agreed, party, data), ids)
    brought = Brought(
        agreed, party, own, links, state, checkpoint, holding.fields, step
    )
    at = listen or agreed.addresses.get(party)
    if at is None:
        raise ValueError(
            f"`listen` must say where `{party}` listens: who serves is dialled, and the "
            "agreement has no address of it."
        )
    raise_limit()
    given = reach.transport
    carrier = default_transport() if given is None else given
    beat = Pulse(*pulse)
    dialler = Dialler(agreed, party, credentials, carrier, dict(reach.addresses), beat)
    server = Server(brought, holding, limits, idle, dialler)
    allowed = {
        identity_of(agreed, p, credentials): p for p in agreed.parties if p != party
    }
    listener = carrier.listen(at, credentials, allowed, server.met, LIMIT, beat)
    _log.info("%s serves step %d at %s", party, brought.model.step, at)
    try:
        server.work(threading.Event() if stop is None else stop)
    finally:
        server.close()
        listener.close()
    table = server.table
    return Served(brought.model, server.opened, server.calls, table.evicted)


def _limits(
    agreed: Agreement,
    party: str,
    sizes: tuple[int, int, int],
    askers: Sequence[str] | None,
    together: int,
    batch_wait: float,
) -> Limits:
    if party not in agreed.parties:
        raise ValueError(
            f"`party` must be one of {', '.join(agreed.parties)}, got {party!r}."
        )
    if not 0 <= batch_wait < float("inf"):
        raise ValueError(
            f"`batch_wait` must be seconds, 0 or more, got {shown(batch_wait)}."
        )
    sessions, length, batch = sizes
    return Limits(
        as_positive_int("sessions", sessions),
        as_positive_int("length", length),
        as_positive_int("batch", batch),
        _askers_of(agreed, party, askers),
        as_positive_int("together", together),
        float(batch_wait),
    )


def _read_of(
    agreed: Agreement, party: str, data: Mapping[str, PyTree] | None
) -> dict[str, PyTree]:
    """Of a party's data, what its segments read: to serve nobody needs labels."""
    topology, role = agreed.topology_of_strangers, agreed.turns.role[party]
    own = {i for n in topology.segments if n.party == role for i in n.reads}
    needed = sorted(own & {*topology.fields})
    if data is None or not needed:
        return {}
    if not isinstance(data, Mapping):
        raise ValueError("`data` must be fields by name, for records to be looked up.")
    return {f: data[f] for f in needed if f in data}


def _askers_of(
    agreed: Agreement, party: str, askers: Sequence[str] | None
) -> tuple[str, ...]:
    """The parties that may ask."""
    others = [p for p in agreed.parties if p != party]
    if askers is not None:
        strange = [p for p in names_of("askers", askers) if p not in others]
        if strange:
            raise ValueError(
                f"`askers` must be among {', '.join(others)}, got {strange[0]!r}."
            )
        return tuple(names_of("askers", askers))
    topology = agreed.topology_of_strangers
    read = {i for n in topology.segments for i in n.reads}
    holding = {r for r, fields in agreed.holds.items() if read & {*fields}}
    return tuple(p for p in others if agreed.turns.role[p] in holding)
