"""Attacks run one by one: at each party, cut and target where their threat exists.

What cannot be tried is kept with its reason, for a report that leaves it out looks as if
nothing had been found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line, warn_user
from jsplit.privacy.attacks.attack import seed_of
from jsplit.privacy.reporting.attempt import NEEDS, Attempt, Given
from jsplit.privacy.reporting.doubts import doubt_of
from jsplit.privacy.reporting.forms import bottom_of, head_of
from jsplit.privacy.reporting.inference import activations_of
from jsplit.privacy.reporting.knowing import classes_in, known_rows
from jsplit.privacy.reporting.pictures import worst
from jsplit.privacy.reporting.records import Finding, Untested
from jsplit.privacy.reporting.training import Arrays
from jsplit.privacy.scores import Score
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.records import Seen
from jsplit.privacy.viewing.view import View
from jsplit.privacy.watching import called
from jsplit.topology.graph import Topology


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


@dataclass
class Trying:
    """What the attacks on one training share.

    Attributes:
        topology: who computes what.
        data: all records.
        known: whose labels are known, as `knowing.known_places` gives it.
        public: public records, by field.
        asked: by value and receiver, that of public records; empty without.
        ranges: by field, the smallest and largest value.
        pictures: how many reconstructions are kept as pictures.
        steps: of optimisation for each attack, or `None`.
        key: what all draw from.
        findings: what was found so far.
        untested: what was not tried so far.
    """

    topology: Topology
    data: Arrays
    known: int | np.ndarray | None
    public: Arrays | None
    asked: Mapping[tuple[str, str], PyTree]
    ranges: Mapping[str, tuple[float, float]]
    pictures: int
    steps: int | None
    key: jax.Array
    findings: list[Finding] = field(default_factory=list)
    untested: dict[Untested, None] = field(default_factory=dict)

    def skip(self, what: str, party: str, cut: str, why: str) -> None:
        """Note that something was not tried."""
        self.untested[Untested(what, party, cut, why)] = None

    def all_of(self, attempt: Attempt, view: View, sight: Sight) -> None:
        """Run one attack by one party on one traffic, at each cut and target.

        Args:
            attempt: the attack.
            view: of the party.
            sight: what it attacks.
        """
        for seen, value in _read(attempt, view, sight.traffic):
            for target in targets(attempt.threat, view, seen):
                self._one(attempt, view, sight, seen, value, target)

    def _one(
        self,
        attempt: Attempt,
        view: View,
        sight: Sight,
        seen: Seen,
        value: str,
        target: str,
    ) -> None:
        def skip(why: str) -> None:
            self.skip(attempt.name, view.party, seen.name, f"`{target}`: {why}")

        given = self._given(attempt, sight, seen, value, target)
        if attempt.threat == "labels" and given.classes is None:
            return skip("it holds no class numbers of two classes or more")
        if attempt.binary and given.classes != 2:
            return skip(f"of two classes alone; there are {given.classes}")
        for need in attempt.needs:
            if getattr(given, need) is None:
                return skip(NEEDS[need])
        try:
            result = attempt.run(view, sight.traffic, given)
        except ValueError as error:
            return skip(said(error, attempt.run))
        except Exception as error:
            # One attack that breaks must not cost hours of others, nor break in silence.
            why = f"it broke with a {type(error).__name__}"
            warn_user(f"Of the report: {attempt.name} on `{seen.name}`: {why}.")
            return skip(why)
        score, guess = _taken_apart(result)
        drawn = () if guess is None else worst(given.truth, guess, self.pictures)
        doubt = doubt_of(attempt, self.steps, score)
        self.findings.append(Finding(seen.name, sight.when, score, drawn, doubt))

    def _given(
        self, attempt: Attempt, sight: Sight, seen: Seen, value: str, target: str
    ) -> Given:
        """What the attack is told."""
        truth = np.asarray(self.data[target])[sight.ids]
        labels = attempt.threat == "labels"
        # The same draw for all attacks of a traffic: they are compared.
        rng = np.random.default_rng(seed_of(self.key))
        classes = known = None
        if labels:
            classes = classes_in(self.data[target])
            truth = truth.reshape(-1)
            known = known_rows(self.known, sight.ids, truth, rng)
        head = head_of(self.topology, seen.name, target) or (None, None)
        asked = self.asked.get((seen.name, seen.receiver))
        public = None if asked is None else (self.public or {}).get(target)
        return Given(
            target,
            truth,
            value,
            self.key,
            classes,
            sight.ids,
            known,
            None if public is None else np.asarray(public),
            asked,
            *head,
            None if labels else bottom_of(self.topology, seen.name, target),
            self.ranges.get(target),
            self.steps,
        )


def said(error: ValueError, run: Callable[..., object] | None = None) -> str:
    """Why something could not be done, if it is jsplit or the attack that says so.

    Other libraries quote what they were given, and a report has no value of a record.

    Args:
        error: what was raised.
        run: the function of the attack, if any.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    ours = raised.split(".")[0] == "jsplit" or raised == getattr(run, "__module__", 0)
    return first_line(error) if ours else f"it raised a {type(error).__name__}"


def targets(threat: str, view: View, seen: Seen) -> list[str]:
    """What an attack of some threat aims at in a message.

    Args:
        threat: "labels" or "inversion".
        view: of the party that would attack.
        seen: the message that it reads.

    Returns:
        Names of fields that the party does not hold.
    """
    hidden = [f for f in seen.fields if not view.holds(f)]
    if threat != "labels":
        return [f for f in hidden if f not in view.labels]
    if seen.kind == "cotangent":
        return [f for f in hidden if f in view.labels]
    # An activation depends on no label; training has taught it to tell of those that
    # come back to the party in cotangents.
    came = {f for s in view.receives if s.kind == "cotangent" for f in s.fields}
    return [f for f in view.labels if f in came and not view.holds(f)]


def _read(attempt: Attempt, view: View, traffic: Traffic) -> Iterator[tuple[Seen, str]]:
    """The messages that an attack reads, with their names in the traffic."""
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


def _taken_apart(result: object) -> tuple[Score, np.ndarray | None]:
    """The score of a result, and reconstructions if it has some."""
    if isinstance(result, Score):
        return result, None
    if isinstance(result, tuple) and isinstance(result[0], Score):
        return result[0], np.asarray(result[1])
    score = getattr(result, "score", None)
    if isinstance(score, Score):
        return score, np.asarray(getattr(result, "reconstructed", ()))
    raise TypeError(
        "an attempt must give a Score, a pair of it and reconstructions, or a record "
        f"with both, got {type(result).__name__}."
    )


def threats_of(
    view: View, tried: Sequence[Attempt], untested: dict[Untested, None]
) -> set[str]:
    """The threats that exist at a party; others, and those nobody tries, are noted.

    Args:
        view: of the party.
        tried: all attacks of the report.
        untested: where it is noted.

    Returns:
        Those that exist and that some attack is of.
    """
    found = set()
    for threat, why in _THREATS.items():
        possible = view.can(threat)
        if not possible:
            proof = Untested(threat, view.party, "", possible.why, True)
            untested[proof] = None
        elif any(a.threat == threat for a in tried):
            found.add(threat)
        else:
            untested[Untested(threat, view.party, "", why)] = None
    return found


_THREATS = {
    "inversion": "this report was given no attack on inputs",
    "hijacking": (
        "it takes an active attacker, who sends other cotangents than agreed on; this "
        "report has passive attacks alone; jsplit.privacy.fsha is one"
    ),
    "labels": "this report was given no attack on labels",
    "membership": (
        "it takes models trained with and without a record; "
        "jsplit.privacy.membership_inference is an attack"
    ),
}
"""By threat, why it was not tried where it exists and no attack is of it."""
