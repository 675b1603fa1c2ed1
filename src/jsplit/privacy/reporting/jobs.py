"""A job of a report: one attack by one party on one message, aimed at one field.

Here it is said which jobs there are and what one lacks; they are run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jsplit.privacy.reporting.attempt import NEEDS, Attempt, Given
from jsplit.privacy.reporting.inference import activations_of
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.records import Seen
from jsplit.privacy.viewing.view import View, hidden_in
from jsplit.privacy.watching import called


@dataclass(frozen=True)
class Sight:
    """A party's traffic of some steps, and which records it is of.

    Attributes:
        when: of which steps.
        traffic: what it has seen.
        ids: which record each row is, int [rows].
    """

    when: str
    traffic: Traffic
    ids: np.ndarray


class Job(NamedTuple):
    """One attack that can be run.

    Attributes:
        attempt: the attack.
        view: of the party that runs it.
        sight: what it attacks.
        seen: the message that it reads.
        value: its name in the traffic.
        target: the field that it aims at.
    """

    attempt: Attempt
    view: View
    sight: Sight
    seen: Seen
    value: str
    target: str

    def __str__(self) -> str:
        return (
            f"{self.attempt.name} on `{self.target}` by {self.view.party} at "
            f"{self.seen.name}, {self.sight.when}"
        )


def lacks(attempt: Attempt, given: Given) -> str:
    """Why an attack cannot be run; empty if it can.

    Args:
        attempt: the attack.
        given: what it would be told.
    """
    if attempt.threat == "labels" and given.classes is None:
        return "it holds no class numbers of two classes or more"
    if attempt.binary and given.classes != 2:
        return f"of two classes alone; there are {given.classes}"
    lacking = [n for n in attempt.needs if getattr(given, n) is None]
    return NEEDS[lacking[0]] if lacking else ""


def targets(threat: str, view: View, seen: Seen) -> list[str]:
    """What an attack of some threat aims at in a message.

    Args:
        threat: "labels" or "inversion".
        view: of the party that would attack.
        seen: the message that it reads.

    Returns:
        Names of fields that the party does not hold.
    """
    if threat != "labels" or seen.kind == "cotangent":
        return hidden_in(view, seen, threat)
    # An activation depends on no label; training has taught it to tell of those that
    # come back to the party in cotangents, or to whoever makes it.
    came = {f for s in view.receives if s.kind == "cotangent" for f in s.fields}
    return [f for f in view.labels if f in came | {*seen.taught} and not view.holds(f)]


def unread(threat: str, view: View, attempts: Iterable[Attempt]) -> Iterator[Seen]:
    """The messages that tell a party of fields of others, and that no attack reads.

    Args:
        threat: "labels" or "inversion".
        view: of the party.
        attempts: all that are tried.
    """
    read = {
        "cotangent" if a.reads == "cotangents" else "activation"
        for a in attempts
        if a.threat == threat
    }
    for s in view.receives:
        there = (hidden_in(view, s, threat, taught=t) for t in (False, True))
        if s.kind not in read and any(there):
            yield s


def reads(attempt: Attempt, view: View, traffic: Traffic) -> Iterator[tuple[Seen, str]]:
    """The messages that an attack reads, with their names in the traffic.

    Args:
        attempt: the attack.
        view: of the party.
        traffic: what that has seen.
    """
    if attempt.reads == "cotangents":
        seen = [s for s in view.receives if s.kind == "cotangent"]
        there, groups = traffic.returned, [seen]
    else:
        groups = [activations_of(view, "receives")]
        if attempt.reads == "activations":
            groups.append(activations_of(view, "sends"))
        there = {**traffic.received, **traffic.sent}
    for group in groups:
        for s in group:
            name = called(s, group, view.party)
            if name in there and jax.tree.leaves(there[name]):
                yield s, name
