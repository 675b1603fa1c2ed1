"""Clients that stay away are passed over, and all others go on without them."""

from __future__ import annotations

import logging

from jsplit.party.connection.peers import Peers
from jsplit.wire.errors import Refused

_log = logging.getLogger("jsplit.party")


def pass_over(peers: Peers, now: float) -> bool:
    """At the lead, if so agreed: go on without clients that are away for too long.

    Args:
        peers: of this party; their lock is held.
        now: the time, as `time.monotonic` has it.

    Returns:
        Whether another epoch has begun by it.

    Raises:
        Refused: if those that are left cannot go on; all are told so.
    """
    member, turns = peers.member, peers.agreed.turns
    if not turns.skips or member.rendezvous is None:
        return False
    late: list[int] = []
    for peer in peers.member.sessions:
        # Without a connection, or silent on one that is there, or at one step for longer
        # than was agreed: never who computes.
        since = peers.lost.get(peer, peers.vigil.away_since(peer))
        # Only clients: without a party that is there in every step nobody can go on.
        is_client = turns.client_of(peers.names[peer]) is not None
        skipped = peer in member.rendezvous.missing
        if now - since > peers.patience and is_client and not skipped:
            late.append(peer)
    if not late:
        return False
    # All that are late at once: each epoch costs all parties a roll back.
    try:
        outgoing = member.skip(late)
    except Refused as error:
        peers.fail(error, tell=True)
        raise
    if outgoing:
        names = ", ".join(f"`{peers.names[peer]}`" for peer in late)
        _log.warning("%s goes on without %s", peers.party, names)
    peers.post(outgoing)
    return bool(outgoing)
