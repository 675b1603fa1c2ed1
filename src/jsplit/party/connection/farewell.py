"""How a party leaves: it says goodbye, and stays until others have done so too.

Nobody may leave before all know that the run is over: who has missed it would wait for
a party that does not come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from jsplit.party.connection.outbox import Outbox
from jsplit.party.connection.peers import Peers
from jsplit.wire.member import Member


def awaited_by(member: Member) -> list[int]:
    """Whose goodbye a party waits for: the lead for all others, others for the lead."""
    if member.rendezvous is None:
        return [member.lead]
    return sorted({*member.sessions} - member.rendezvous.missing)


def passed_over(member: Member) -> list[int]:
    """At the lead: those without whom the run goes on."""
    return sorted(member.rendezvous.missing) if member.rendezvous else []


def say_goodbye(
    peers: Peers, reason: str, awaited: Sequence[int], asked: Callable[[], bool]
) -> set[int]:
    """Say goodbye, and stay for as long as was agreed until others have.

    Args:
        peers: of this party.
        reason: why, if it is not that all is done.
        awaited: whose goodbye is waited for.
        asked: whether this party was asked to stop; then it waits for nobody.

    Returns:
        Who has not said goodbye.
    """
    member, left = peers.member, {*awaited}
    told: dict[int, Outbox] = {}
    end = time.monotonic() + peers.patience
    with peers.changed:
        while True:
            for peer, outbox in peers.outboxes.items():
                # By connection, not by peer: one that has come again may not have heard
                # it.
                if told.get(peer) is not outbox:
                    outbox.put(member.bye(peer, reason))
                    told[peer] = outbox
            now = time.monotonic()
            if member.done >= left or peers.fatal or asked() or now > end:
                return left - member.done
            peers.changed.wait(min(end - now, 0.5))
