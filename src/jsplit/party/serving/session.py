"""`jsplit.party.session`: ask parties that serve, for one sequence or for records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.trees import as_arrays
from jsplit.party.connection.reach import Reach, default_transport
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.placeholders import Own
from jsplit.party.serving.asking import Asking
from jsplit.party.serving.lines import Dialler
from jsplit.party.serving.remote import RemoteSession
from jsplit.party.serving.served import Brought
from jsplit.wire.certs import Trust
from jsplit.wire.transport import Pulse, Transport


def session(
    agreed: Agreement,
    party: str,
    own: Own,
    *,
    credentials: Trust,
    state: PartyState | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    step: int | None = None,
    example: Mapping[str, PyTree] | None = None,
    links: Mapping[str, Link] | None = None,
    batch: int | None = None,
    length: int | None = None,
    replay: bool = True,
    patience: float | None = None,
    addresses: Mapping[str, str] | None = None,
    pulse: Sequence[float] = (),
    transport: Transport | None = None,
) -> RemoteSession:
    """Ask the parties that serve (`jsplit.party.serve`): this one holds what is asked about.

    With a `length` it is a sequence, computed piece by piece with a cache at each party,
    as by `jsplit.session`. Without, each call is of records by themselves, as by
    `predict`. The answer comes to this party, whoever computes it, in the order of what
    was given. What crosses is what crosses in training, and the answer.

    What was given is kept here for as long as the session lasts: where a server is
    started again, or has let go of the session, it is begun anew and given all once
    more, in the same pieces, so that nothing is computed otherwise.

    Args:
        agreed: what the parties have agreed on, as for training. Any client may ask.
        party: the name of this one.
        own: its segments by name, or a topology that has them; losses are left out.
        credentials: its certificate and key, `jsplit.party.credentials`.
        state: of this party, as `jsplit.party.run` gives it. All must be of one step.
        checkpoint: its folder, of which the newest is taken; instead of `state`.
        step: of `checkpoint`, which step is taken instead of the newest.
        example: one batch of its fields, for their shapes; needed with `checkpoint`.
            With a `length` it may be of any length, a prompt.
        links: links by the names that the agreement gives them, beyond those that
            `jsplit.compress` makes.
        batch: how many sequences go side by side, by default 1; of records, how many go
            at a time, by default as many as in training.
        length: the most positions of a sequence.
        replay: whether a session that is lost is begun again; else it is an error.
        patience: seconds that a party is waited for; by default as agreed.
        addresses: `host:port` by party, where one is dialled elsewhere than agreed.
        pulse: seconds of silence after which a connection is asked whether anybody is
            there, and seconds after which it is lost without an answer; by default 10
            and 60.
        transport: what carries frames; by default gRPC.

    Returns:
        A `RemoteSession`; it connects when it is first asked.

    Raises:
        ValueError: naming the argument that does not fit the agreement.

    Example:
        >>> from jsplit import party
        >>> from jsplit.party.contract.sample import sample_agreement
        >>> party.session(
        ...     sample_agreement(),
        ...     "client",
        ...     {},
        ...     credentials=party.PlaintextWithoutIdentity("client"),
        ... )
        Traceback (most recent call last):
        ValueError: `state` or `checkpoint` must be given, and not both.
    """
    if length is not None:
        length = as_positive_int("length", length)
    if batch is not None:
        batch = as_positive_int("batch", batch)
    patience = float(agreed.patience) if patience is None else patience
    if not patience > 0:
        raise ValueError(f"`patience` must be positive seconds, got {shown(patience)}.")
    reach = Reach(None, addresses or {}, pulse=pulse, transport=transport)
    shapes = as_arrays(example or {})
    brought = Brought(
        *(agreed, party, own, links, state, checkpoint, shapes, step),
        sequence=length is not None,
    )
    given = reach.transport
    carrier = default_transport() if given is None else given
    elsewhere = dict(reach.addresses)
    dialler = Dialler(agreed, party, credentials, carrier, elsewhere, Pulse(*pulse))
    asking = Asking(brought, dialler, patience)
    unreached = [p for p in asking.servers if p not in dialler.addresses]
    if unreached:
        raise ValueError(
            f"`{unreached[0]}` has no address in the agreement, and who serves is "
            f'dialled: `addresses={{"{unreached[0]}": "host:port"}}`.'
        )
    if batch is None:
        batch = agreed.batch if length is None else 1
    return RemoteSession(asking, batch, length or 0, replay, owns=True)
