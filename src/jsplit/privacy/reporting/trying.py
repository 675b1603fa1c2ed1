"""Attacks run one by one: at each party, cut and target where their threat exists.

What cannot be tried is kept with its reason, for a report that leaves it out looks as if
nothing had been found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line, warn_user
from jsplit.privacy.attacks.attack import seed_of
from jsplit.privacy.attacks.inputs.likeness import unlike
from jsplit.privacy.reporting.attempt import Attempt, Given
from jsplit.privacy.reporting.doubts import doubt_of
from jsplit.privacy.reporting.forms import bottom_of, head_of
from jsplit.privacy.reporting.jobs import Job, Sight, lacks, reads, targets, unread
from jsplit.privacy.reporting.knowing import class_numbers, classes_in, known_rows
from jsplit.privacy.reporting.of_tokens import are_tokens
from jsplit.privacy.reporting.pictures import worst
from jsplit.privacy.reporting.records import Finding, Untested
from jsplit.privacy.reporting.training import Arrays
from jsplit.privacy.scores import Score
from jsplit.privacy.viewing.view import View
from jsplit.topology.graph import Topology

log = logging.getLogger("jsplit")


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
        tables: by field, a public embedding of its tokens.
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
    tables: Mapping[str, np.ndarray]
    pictures: int
    steps: int | None
    key: jax.Array
    findings: list[Finding] = field(default_factory=list)
    untested: dict[Untested, None] = field(default_factory=dict)

    def skip(self, what: str, party: str, cut: str, why: str) -> None:
        """Note that something was not tried."""
        self.untested[Untested(what, party, cut, why)] = None

    def skip_unread(
        self, threats: Iterable[str], view: View, attempts: Iterable[Attempt]
    ) -> None:
        """Note the messages that tell a party of others and that no attack reads.

        Args:
            threats: that exist there, and that some attack is of.
            view: of the party.
            attempts: all of the report.
        """
        for threat in sorted(threats):
            for s in unread(threat, view, attempts):
                why = f"no attack of this kind reads a {s.kind} here"
                self.skip(threat, view.party, s.name, why)

    def jobs(self, attempt: Attempt, view: View, sight: Sight) -> Iterator[Job]:
        """What one attack by one party on one traffic can be run on; the rest is noted.

        Args:
            attempt: the attack.
            view: of the party.
            sight: what it attacks.

        Yields:
            One for each cut and target.
        """
        for seen, value in reads(attempt, view, sight.traffic):
            for target in targets(attempt.threat, view, seen):
                if attempt.tokens and not are_tokens(self.data[target]):
                    continue
                job = Job(attempt, view, sight, seen, value, target)
                if why := lacks(attempt, self._given(job)):
                    self._skip(job, why)
                else:
                    yield job

    def run_all(self, jobs: Iterable[Job], whose: str) -> None:
        """Run attacks one by one, and say so in the log before each.

        Args:
            jobs: that can be run.
            whose: training they are on, for the log.
        """
        every = [*jobs]
        for number, job in enumerate(every, start=1):
            log.info("report: %s: attack %d of %d, %s", whose, number, len(every), job)
            self._run(job)

    def _skip(self, job: Job, why: str) -> None:
        why = f"`{job.target}`: {why}"
        self.skip(job.attempt.name, job.view.party, job.seen.name, why)

    def _run(self, job: Job) -> None:
        attempt, sight, cut = job.attempt, job.sight, job.seen.name
        given = self._given(job)
        try:
            result = attempt.run(job.view, sight.traffic, given)
        except ValueError as error:
            return self._skip(job, said(error, attempt.run))
        except Exception as error:
            # One attack that breaks must not cost hours of others, nor break in silence.
            why = f"it broke with a {type(error).__name__}"
            warn_user(f"Of the report: {attempt.name} on `{cut}`: {why}.")
            return self._skip(job, why)
        score, guess = _taken_apart(result)
        drawn = () if guess is None else worst(given.truth, guess, self.pictures)
        # Beside what the attack itself may have said.
        learned = given.public if "public" in attempt.needs else None
        kind = unlike(learned, given.truth)
        own = "; ".join(d for d in score.doubt.split("; ") if d != kind)
        steps = doubt_of(attempt, self.steps, score) or own
        doubt = "; ".join(filter(None, (kind, steps)))
        score = replace(score, doubt=doubt)
        self.findings.append(Finding(cut, sight.when, score, drawn))

    def _given(self, job: Job) -> Given:
        """What the attack is told."""
        attempt, _, sight, seen, value, target = job
        truth = np.asarray(self.data[target])[sight.ids]
        labels = attempt.threat == "labels"
        # The same draw for all attacks of a traffic: they are compared.
        rng = np.random.default_rng(seed_of(self.key))
        classes = known = None
        if labels:
            classes = classes_in(self.data[target])
            truth = class_numbers(truth) if classes else truth.reshape(-1)
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
            self.tables.get(target),
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
