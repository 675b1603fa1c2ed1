"""What a report says of one training: what was found and measured, and what was not tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from jsplit.privacy.attacks.attack import best
from jsplit.privacy.measures.batched import Dependence
from jsplit.privacy.measures.probes import Probe
from jsplit.privacy.reporting.pictures import Picture
from jsplit.privacy.scores import Score


@dataclass(frozen=True)
class Finding:
    """What one attack reached at one cut.

    Attributes:
        cut: the value whose activation or cotangent was read.
        when: of which steps: "first 16 steps", "last 16 steps", "after training".
        score: what it reached, with the adversary.
        pictures: records that are given away most; only where they were asked for.

    Example:
        >>> from jsplit.privacy import Adversary, Budget, Finding, Score
        >>> rest = Adversary("client", "nothing"), Budget(0, 1024, 0.1)
        >>> score = Score("norm", "label", "AUC", 0.9, (0.8, 1.0), 0.5, 0.5, True, *rest)
        >>> Finding("smashed", "last 16 steps", score).pictures
        ()
        >>> print(Finding("smashed", "last 16 steps", score))  # doctest: +ELLIPSIS
        at smashed, last 16 steps: norm by client finds label: AUC 0.900 [0.800, 1.000]...
    """

    cut: str
    when: str
    score: Score
    pictures: tuple[Picture, ...] = ()

    @property
    def doubt(self) -> str:
        """Why the attack may reach more than this with more steps.

        Returns:
            That of its score; empty if there is no sign of it.

        Example:
            >>> from jsplit.privacy import Adversary, Budget, Finding, Score
            >>> rest = Adversary("client", ""), Budget(9, 8, 0.1), {}, "9 of 400 steps"
            >>> score = Score("x", "y", "AUC", 0.9, (0.8, 1.0), 0.5, 0.5, True, *rest)
            >>> Finding("smashed", "last 16 steps", score).doubt
            '9 of 400 steps'
        """
        return self.score.doubt

    def __str__(self) -> str:
        return f"at {self.cut}, {self.when}: {self.score}"


@dataclass(frozen=True)
class Untested:
    """What was not tried, and why.

    Attributes:
        what: an attack, or a threat.
        party: who would attack; empty: whoever.
        cut: at which value; empty: at all.
        why: in words.
        proven: whether the topology itself rules it out.

    Example:
        >>> from jsplit.privacy import Untested
        >>> Untested("decoder", "server", "smashed", "no public records").proven
        False
    """

    what: str
    party: str
    cut: str
    why: str
    proven: bool = False


@dataclass(frozen=True)
class Exposure:
    """What can be read off an activation that crosses, by measures that attack nobody.

    Attributes:
        cut: the value that crosses.
        receiver: the party that gets it.
        field: a field or label that it is held against.
        held: whether the receiver holds that field anyway.
        dependence: distance correlation with it, of a field of numbers.
        probes: what simple models read of it, of a label.

    Example:
        >>> from jsplit.privacy import Exposure
        >>> Exposure("smashed", "server", "image", False).probes
        ()
    """

    cut: str
    receiver: str
    field: str
    held: bool
    dependence: Dependence | None = None
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """All that a report says of one trainer.

    Attributes:
        name: of the defence, "none" of the plain trainer.
        steps: it was trained for; 0 where the caller gave the state.
        batch: records in a step.
        train: records trained on.
        test: records that losses and metrics are of.
        losses: by name, of these.
        metrics: by name, of these.
        bytes: what crosses in a step.
        seconds: of wall time for the training, compiling included.
        proven: what crosses that is proven to be a field or a label, in words.
        findings: what attacks reached.
        exposures: what measures say of each cut.
        untested: what was not tried.

    Example:
        >>> from jsplit.privacy import Outcome
        >>> Outcome("none", 100, 64, 640, 160).best
        ()
    """

    name: str
    steps: int
    batch: int
    train: int
    test: int
    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    proven: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    exposures: tuple[Exposure, ...] = ()
    untested: tuple[Untested, ...] = ()

    @property
    def best(self) -> tuple[Finding, ...]:
        """The best attack at each cut, by adversary, target and measure.

        One that may reach more is in doubt, and so is the best beside it: it has the
        doubts of all.

        Returns:
            One finding each, in the order in which they were found.

        Example:
            >>> from jsplit.privacy import Adversary, Budget, Finding, Outcome, Score
            >>> rest = 0.5, 0.5, True, Adversary("client", ""), Budget(0, 8, 0.1)
            >>> found = [
            ...     Finding("h", "", Score(n, "label", "AUC", v, (v, v), *rest))
            ...     for n, v in (("norm", 0.7), ("cosine", 0.9))
            ... ]
            >>> outcome = Outcome("none", 100, 64, 640, 160, findings=tuple(found))
            >>> [f.score.attack for f in outcome.best]
            ['cosine']
        """
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for f in self.findings:
            groups.setdefault(group_of(f), []).append(f)
        return tuple(best_of(group) for group in groups.values())


def best_of(group: Sequence[Finding]) -> Finding:
    """The best of findings of one target by one measure, with the doubts of all.

    Args:
        group: one at least.
    """
    score = best([f.score for f in group])
    found = next(f for f in group if f.score is score)
    doubts = dict.fromkeys(f"{f.score.attack}: {f.doubt}" for f in group if f.doubt)
    return replace(found, score=replace(score, doubt="; ".join(doubts)))


def group_of(finding: Finding) -> tuple[str, ...]:
    """Among which findings the best is sought: cut, adversary, target, measure."""
    score = finding.score
    return finding.cut, score.adversary.party, score.target, score.measure
