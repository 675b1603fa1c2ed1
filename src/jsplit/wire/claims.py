"""What others say, compared with what a party knows itself. No I/O.

Whoever has a certificate may still lie or be mistaken. Nothing that a frame says is
acted on where it contradicts what this party has on disk, has counted or was told.
Errors give counts and steps, never an id.
"""

from __future__ import annotations

from jsplit.wire.codec import Head
from jsplit.wire.control import Start, Status
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.rota import Away, away_since
from jsplit.wire.said import named
from jsplit.wire.terms import Terms

_FEW = 8
"""Numbers of records that a line of the log holds."""


def check_status(who: str, head: Head, status: Status) -> None:
    """Refuse a status that is not of the process whose frame it is in.

    Args:
        who: the party that sent it.
        head: of the frame.
        status: what the frame says.

    Raises:
        RemoteProtocolError: giving both numbers.
    """
    if status.instance != head.instance:
        raise RemoteProtocolError(
            f"`{who}` says it is process {status.instance}, in a frame of process "
            f"{head.instance}."
        )


def check_arrival(
    terms: Terms,
    party: int,
    status: Status,
    known: Status | None,
    start: Start | None,
    committed: int | None,
) -> None:
    """At the lead: refuse a status that contradicts what the party said before.

    Args:
        terms: of the run.
        party: who says it, by its place.
        status: what it says.
        known: what it said last.
        start: the epoch that has begun.
        committed: the newest step that all, this party too, have said to have.

    Raises:
        RemoteProtocolError: giving what it says and what is known.
    """
    who = f"`{terms.name(party)}`"
    for client in status.records:
        # Else one hospital could speak of the records of another, and no epoch would
        # begin, for a reason that names the wrong one.
        if terms.holders and party not in terms.holders.get(client, ()):
            raise RemoteProtocolError(
                f"{who} says how many records {named(client)} has, which it does "
                "not hold."
            )
    if known is None or known.instance != status.instance:
        return
    # The same process: what it has read cannot change, and what all have said to have
    # stays until all have something newer. Who forgot it would be found out when
    # another party comes back, and that one would be refused in its place.
    if known.records != status.records:
        raise RemoteProtocolError(
            f"{who} says it has {_counts(status)}, and said {_counts(known)} before."
        )
    if start is None:
        return
    if status.epoch > start.epoch:
        raise RemoteProtocolError(
            f"{who} says it is in epoch {status.epoch}, of {start.epoch} that have begun."
        )
    same_epoch = status.epoch == known.epoch == start.epoch
    if same_epoch and committed is not None and committed not in status.durable:
        raise RemoteProtocolError(
            f"{who} says it has the steps {[*status.durable]} on disk, and said before "
            f"that it has step {committed}."
        )


def _counts(status: Status) -> str:
    """How many records a status says, in words."""
    counts = [str(count) for count, _ in status.records.values()]
    # There are as many as it likes to name, and the line goes to a log.
    few = ", ".join(counts[:_FEW]) + (
        f" and {len(counts) - _FEW} more" * (len(counts) > _FEW)
    )
    return f"{few or 'no'} records"


def check_start(
    terms: Terms,
    me: int,
    lead: int,
    own: Status,
    before: Start | None,
    start: Start,
    instance: int,
) -> None:
    """Refuse an epoch that contradicts what this party knows.

    Args:
        terms: of the run.
        me: this party, by its place.
        lead: the party that says so.
        own: what this party has.
        before: the epoch that this party is in.
        start: the one that is to begin.
        instance: the lead's process, by the head of the frame.

    Raises:
        Refused: naming the lead, with what it says and what is known.
    """
    who = f"`{terms.name(lead)}`"
    if start.instances[lead] != instance:
        raise Refused(
            f"{who} says it is process {start.instances[lead]}, in a frame of process "
            f"{instance}."
        )
    _check_away(terms, who, own, before, start)
    _check_step(terms, me, who, own, start)
    _check_records(terms, me, who, own, before, start)


def _check_step(terms: Terms, me: int, who: str, own: Status, start: Start) -> None:
    """The step from which all go on must be one that this party can go back to."""
    step, name = start.step, terms.name(me)
    client = next((c for c, of in enumerate(terms.clients) if me in of), None)
    if terms.anew or client is None:
        if step not in own.durable:
            raise Refused(
                f"{who} says that all go on from step {step}, which `{name}` has not: "
                f"it has {[*own.durable]}."
            )
        return
    # A client that was passed over need not have what others did without it; but
    # something from before that it must have, and it is all that it keeps.
    since = away_since(start.away, client, step)
    if not any(s <= since for s in own.durable):
        raise Refused(
            f"{who} says that `{name}` was away from step {since} on, of which "
            f"it knows nothing: it has the steps {[*own.durable]}."
        )


def _check_records(
    terms: Terms, me: int, who: str, own: Status, before: Start | None, start: Start
) -> None:
    """What all have agreed on must be what this party has, and was told before."""
    # Where nobody takes turns, all records are of no client in particular.
    known_clients = terms.holders or {"", *own.records}
    for client, count in start.records.items():
        of = f" of {named(client)}" if client else ""
        if client not in known_clients:
            raise Refused(f"{who} counts records{of}, a client that there is not.")
        known = before.records.get(client, count) if before else count
        # Another number of records would be other batches in every step.
        if known != count:
            raise Refused(
                f"{who} says that there are {count} records{of}, and said {known} "
                "before."
            )
    for client, (count, _) in own.records.items():
        said = start.records.get(client, 0)
        if said != count:
            of = f" of {named(client)}" if client else ""
            raise Refused(
                f"{who} says that all have {said} records{of}, `{terms.name(me)}` has "
                f"{count}."
            )


def _check_away(
    terms: Terms, who: str, own: Status, before: Start | None, start: Start
) -> None:
    """Who is passed over must be as was agreed, as is said of processes, and as before."""
    away = start.away
    steps = [step for step, _ in away]
    gone = [(), *(clients for _, clients in away)]
    sound = steps == sorted({*steps}) and all(step <= start.step for step in steps)
    # Where nobody is passed over there are no clients here, and so nothing to say.
    sound = sound and all(a != b for a, b in zip(gone, gone[1:], strict=False))
    sound = sound and all(len({*c}) == len(c) for c in gone)
    if not sound or terms.clients and len(gone[-1]) == len(terms.clients):
        raise Refused(f"{who} says that clients were away, as it cannot be.")
    nobody = {p for p, instance in enumerate(start.instances) if not instance}
    missing = {c for c, of in enumerate(terms.clients) if nobody & {*of}}
    of_clients = {p for c in gone[-1] for p in terms.clients[c]}
    if missing != {*gone[-1]} or not nobody <= of_clients:
        raise Refused(
            f"{who} passes over {len(nobody)} parties, and {len(gone[-1])} clients."
        )
    # All keep what is older than any step that this party could go back to.
    settled = min(own.durable, default=0)
    if before and _until(before.away, settled) != _until(away, settled):
        raise Refused(
            f"{who} says of steps before {settled} that others were away than it said "
            "before."
        )


def _until(away: Away, step: int) -> Away:
    return tuple(entry for entry in away if entry[0] < step)


def check_committed(terms: Terms, lead: int, me: int, own: Status, step: int) -> None:
    """Refuse that all have a step on disk, if this party has not.

    Older checkpoints are deleted by it, and the run ends by it.

    Args:
        terms: of the run.
        lead: the party that says so.
        me: this party, by its place.
        own: what it has.
        step: that all are said to have.

    Raises:
        Refused: naming the lead, with what it says and what is known.
    """
    if step not in own.durable:
        raise Refused(
            f"`{terms.name(lead)}` says that all have step {step} on disk, "
            f"`{terms.name(me)}` has {[*own.durable]}. A client that was passed over to the "
            "end learns so that the run is over; what it has on disk stays whole."
        )
