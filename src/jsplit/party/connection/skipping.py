"""Clients that stay away are passed over, and all others go on without them.

So are those that are there and do nothing, though it is for them that all others wait, and
those that come back over and over.
"""

from __future__ import annotations

import logging

from jsplit.party.connection.peers import Peers
from jsplit.wire.errors import Refused

_log = logging.getLogger("jsplit.party")


def pass_over(peers: Peers, began: float, now: float) -> bool:
    """At the lead, if so agreed: go on without clients that are away for too long.

    Args:
        peers: of this party; their lock is held.
        began: since when this party waits.
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
    vain: list[int] = []
    for peer in peers.member.sessions:
        # Without a connection, or silent on one that is there, or at one step for longer
        # than was agreed: never who computes.
        since = peers.lost.get(peer, peers.vigil.away_since(peer))
        # Only clients: without a party that is there in every step nobody can go on.
        is_client = turns.client_of(peers.names[peer]) is not None
        skipped = peer in member.rendezvous.missing
        if not is_client or skipped:
            continue
        if peers.comebacks.is_in_vain(
            peer, member.committed, peers.patience, lost=peer in peers.lost
        ):
            vain.append(peer)
        elif now - since > peers.patience:
            late.append(peer)
    late += vain
    idle = [] if late else _idle(peers, began, now)
    if not late and not idle:
        return False
    # All that are late at once: each epoch costs all parties a roll back.
    try:
        outgoing = member.skip([*late, *idle])
    except Refused as error:
        peers.fail(error, tell=True)
        raise
    member.rendezvous.keep_out(vain, member.committed)
    if outgoing:
        names = ", ".join(f"`{peers.names[peer]}`" for peer in [*late, *idle])
        why = ", for which all waited though it is there" if idle else ""
        if vain:
            again = ", ".join(f"`{peers.names[peer]}`" for peer in vain)
            why = f": {again} came back again and again, and nothing got on"
        _log.warning("%s goes on without %s%s", peers.party, names, why)
    peers.post(outgoing)
    return bool(outgoing)


def _idle(peers: Peers, began: float, now: float) -> list[int]:
    """The parties of a client that all others wait for, and that does nothing.

    It may be one that is behind, the one whose turn it is, or one that hands over to it:
    whether that was handed over, no sign says. They are tried in this order, each once
    at a step; an honest one that is passed over comes back by itself.

    Args:
        peers: of this party; their lock is held.
        began: since when this party waits.
        now: the time.
    """
    member, vigil = peers.member, peers.vigil
    if now - vigil.quiet_since(began) <= peers.patience or member.start is None:
        return []
    assert member.rendezvous is not None
    there = member.sessions.keys() - member.rendezvous.missing
    # Whoever is away is what all wait for, be it long enough yet or not.
    if any(
        p in peers.lost or now - vigil.seen[p].heard > vigil.pause * 2 for p in there
    ):
        return []
    turns = peers.agreed.turns.excluding(member.start.away)
    parties: dict[int, list[int]] = {}
    at = [vigil.step] if turns.client_of(peers.party) is None else []
    for peer in there:
        client = turns.client_of(peers.names[peer])
        if client is None:
            # Only who is there in every step knows which step it is: who has no turn
            # runs ahead.
            at.append(vigil.seen[peer].furthest[1])
        else:
            parties.setdefault(client, []).append(peer)
    step = min(at, default=vigil.step)
    handed = turns.rota.handed.items()
    givers = {giver for (giver, _), uses in handed if uses.has(step)}
    found: list[tuple[bool, tuple[int, int], bool, list[int]]] = []
    for client, places in parties.items():
        stands = min(vigil.seen[p].furthest for p in places)
        behind = stands < (member.epoch, step)
        has_turn = client == turns.client(step)
        tried = any(vigil.suspected.get(p, -1) >= step for p in places)
        if (behind or has_turn or client in givers) and not tried:
            # Of those behind the last one, of the others the one whose turn it is.
            at_most = stands if behind else (0, 0)
            found.append((not behind, at_most, not has_turn, places))
    if not found:
        return []
    idle = min(found)[-1]
    vigil.suspected |= dict.fromkeys(idle, step)
    return idle
