"""Who is missing, and what is wrong with whom, in the words that a waiting party says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jsplit.party.connection.interrupts import Missing
from jsplit.party.connection.peers import Peers


def absent(peers: Peers) -> str:
    """Who did not come before a run begins. The lock of `peers` is held.

    Args:
        peers: of the party that waits.
    """
    # The lead knows of all; the others only whom they have a connection with.
    rendezvous = peers.member.rendezvous
    there = rendezvous.there if rendezvous else peers.outboxes
    awaited = rendezvous.awaited() if rendezvous else []
    others = [(i, p) for i, p in enumerate(peers.names) if p != peers.party]
    if missing := [f"`{party}`" for i, party in others if i not in there]:
        return f"of whom {', '.join(missing)} did not come"
    if busy := [f"`{party}`" for i, party in others if i in awaited]:
        return f"of whom {', '.join(busy)} did not get ready"
    return "of whom all were connected"


def missing(
    peers: Peers, patience: float, what: str | Callable[[], str], whom: Sequence[str]
) -> Missing:
    """The end of a wait.

    Args:
        peers: of the party that waited.
        patience: for how many seconds nobody was at work.
        what: what it waited for, in words.
        whom: the parties that it waited for.
    """
    trouble = _trouble_of(peers, whom)
    what = what() if callable(what) else what
    why = f": {trouble}" if trouble else ""
    return Missing(f"`{peers.party}` waited {patience:g} s for {what}{why}")


def _trouble_of(peers: Peers, whom: Sequence[str]) -> str:
    """What is known to be wrong with some parties; nothing if nothing is."""
    known = dict(peers.trouble)
    standing = peers.vigil.standing()
    for place, words in standing.items():
        known[peers.names[place]] = f"`{peers.names[place]}` {words}"
    # Who stands still may be one that those who are waited for wait for.
    named = [*whom, *(peers.names[place] for place in standing)]
    return "; ".join(known[party] for party in dict.fromkeys(named) if party in known)
