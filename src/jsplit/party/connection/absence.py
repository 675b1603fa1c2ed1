"""Who is missing, and what is wrong with whom, in the words that a waiting party says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from jsplit.party.connection.interrupts import Missing
from jsplit.party.connection.peers import Peers

_log = logging.getLogger("jsplit.party")
_TELL = 30.0
"""Seconds of waiting after which the log says what is waited for, and again and again."""


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
        return f"of whom {', '.join(busy)} did not get ready yet"
    return "all of whom are connected"


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
    what = (what() if callable(what) else what) + _way_of(peers, whom)
    why = f": {trouble}" if trouble else ""
    # Who is not let in would wait as long the next time; by the lead not either, which
    # all others come by or hear of.
    denied = bool(peers.denied & {*whom, peers.names[peers.member.lead]})
    said = f"`{peers.party}` waited {patience:g} s for {what}{why}"
    return Missing(said, denied=denied)


def _way_of(peers: Peers, whom: Sequence[str]) -> str:
    """By way of whom values come that are waited for: it may be the one that keeps them."""
    lead = peers.names[peers.member.lead]
    ways = [peers.names[peers.member.route(peers.names.index(party))] for party in whom]
    # Where the lead is waited for too it is named anyway.
    relayed = lead not in (*whom, peers.party) and lead in ways
    return f", which comes by way of `{lead}`" if relayed else ""


def tell_of_wait(
    peers: Peers, what: str | Callable[[], str], began: float, told: float
) -> float:
    """Log now and then what this party waits for, and who is at work meanwhile.

    Args:
        peers: of the party that waits.
        what: what it waits for, in words.
        began: when it began to.
        told: when it was last told.

    Returns:
        When it was last told, now.
    """
    now = time.monotonic()
    if now - told < _TELL:
        return told
    working = [
        f"`{peers.names[place]}` is at work on step {seen.sign.step}"
        for place, seen in peers.vigil.seen.items()
        if seen.sign is not None and seen.sign.computes and now - seen.heard < _TELL
    ]
    said = "; ".join(working) or "nobody says that it is at work"
    words = what() if callable(what) else what
    _log.info("%s waits for %s for %.0f s: %s", peers.party, words, now - began, said)
    return now


def _trouble_of(peers: Peers, whom: Sequence[str]) -> str:
    """What is known to be wrong with some parties; nothing if nothing is."""
    known = {**peers.trouble, **peers.lasting}
    standing = peers.vigil.standing()
    for place, words in standing.items():
        # Signs of others are what the lead says that they say.
        member = peers.member
        heard = member.lead in (member.me, place)
        of = "" if heard else f", as `{peers.names[member.lead]}` says"
        known[peers.names[place]] = f"`{peers.names[place]}` {words}{of}"
    # Who stands still may be one that those who are waited for wait for.
    named = [*peers.denied, *whom, *(peers.names[place] for place in standing)]
    return "; ".join(known[party] for party in dict.fromkeys(named) if party in known)
