"""What an attack reached: one number with its interval, its control and what it cost.

An attack without a control that falls to chance has shown nothing, and a number without an
adversary says nothing of anybody's risk. So a score cannot be made without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FAILED = "the attack failed (worse than a guess)"
FEW = 20
"""Of fewer records an interval is itself a guess: they show little of how others vary."""


@dataclass(frozen=True)
class Adversary:
    """Who attacks, and what it is supposed to know.

    Attributes:
        party: which party of the topology it is.
        knows: what it has beside its own view, in words: the form of the other
            party's segment, records of the same kind, some labels.
        active: whether it departs from what was agreed on.
        public: how many records it has that are nobody's secret.
        labelled: how many of those whose label it knows.
        source: the paper or code that the attack is of.

    Example:
        >>> from jsplit.privacy import Adversary
        >>> Adversary("client", "one positive record", labelled=1).active
        False
    """

    party: str
    knows: str
    active: bool = False
    public: int = 0
    labelled: int = 0
    source: str = ""


@dataclass(frozen=True)
class Budget:
    """What an attack has spent.

    Attributes:
        steps: steps of optimisation, of all starts together; 0 of a closed form.
        records: records of others that it has looked at, each once.
        seconds: of wall time, compiling included, without its control.
        starts: how many times it started anew, of which the best counts.

    Example:
        >>> from jsplit.privacy import Budget
        >>> Budget(steps=600, records=1024, seconds=0.1, starts=4).effort
        '4 starts x 150'
    """

    steps: int
    records: int
    seconds: float
    starts: int = 1

    @property
    def effort(self) -> str:
        """The steps as reports write them: of each start, which is what `steps=` sets.

        Returns:
            A text.

        Example:
            >>> from jsplit.privacy import Budget
            >>> Budget(steps=150, records=1024, seconds=0.1).effort
            '150'
        """
        if self.starts == 1:
            return str(self.steps)
        return f"{self.starts} starts x {self.steps // self.starts}"


@dataclass(frozen=True)
class Score:
    """What an attack reached.

    Attributes:
        attack: its name.
        target: what it aims at, a field by its name, or "membership".
        measure: what `value` is: "AUC", "accuracy", "MSE".
        value: the number, of records that the attack was not fitted on.
        interval: within which it lies with 95 % confidence.
        control: the same attack where there is nothing to find: shuffled pairs, noise,
            an untrained bottom.
        chance: what somebody reaches who sees nothing.
        larger_leaks: whether a larger value is a larger leak; of an error it is not.
        adversary: who attacks.
        budget: what it cost.
        more: other numbers of the same attack by name, as an SSIM beside an MSE.
        doubt: why more may be reached with more steps, as a report finds it; empty if
            there is no sign of it.

    Example:
        >>> from jsplit.privacy import Adversary, Budget, Score
        >>> Score(
        ...     "norm", "label", "AUC", 0.9, (0.88, 0.92), 0.51, 0.5, True,
        ...     Adversary("client", "nothing"), Budget(0, 1024, 0.1),
        ... ).beats_chance
        True

        Printing one shows all that it depends on, in a line:

        >>> print(
        ...     Score(
        ...         "norm", "label", "AUC", 0.9, (0.88, 0.92), 0.51, 0.5, True,
        ...         Adversary("client", "nothing"), Budget(0, 1024, 0.1),
        ...     )
        ... )  # doctest: +ELLIPSIS
        norm by client finds label: AUC 0.900 [0.880, 0.920] (chance 0.500, nothing to...
    """

    attack: str
    target: str
    measure: str
    value: float
    interval: tuple[float, float]
    control: float
    chance: float
    larger_leaks: bool
    adversary: Adversary
    budget: Budget
    more: Mapping[str, float] = field(default_factory=dict)
    doubt: str = ""

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval is on the leaking side of chance.

        Returns:
            Whether it is.

        Example:
            >>> from jsplit.privacy import Adversary, Budget, Score
            >>> adversary, budget = Adversary("client", "nothing"), Budget(0, 8, 0.1)
            >>> of = ("norm", "label", "AUC", 0.6, (0.4, 0.8), 0.5, 0.5, True)
            >>> Score(*of, adversary, budget).beats_chance
            False
        """
        low, high = self.interval
        return low > self.chance if self.larger_leaks else high < self.chance

    @property
    def failed(self) -> bool:
        """Whether the whole interval is on the other side of chance: a guess does better.

        That shows no protection: who attacks would guess, or attack otherwise.

        Returns:
            Whether it is.

        Example:
            >>> from jsplit.privacy import Adversary, Budget, Score
            >>> rest = Adversary("server", "nothing"), Budget(150, 8, 0.1)
            >>> Score("decoder", "x", "MSE", 14, (9, 19), 0.07, 0.07, False, *rest).failed
            True
        """
        low, high = self.interval
        return high < self.chance if self.larger_leaks else low > self.chance

    def __str__(self) -> str:
        low, high = self.interval
        verb = "finds" if self.larger_leaks else "rebuilds"
        way = "" if self.larger_leaks else ", less leaks more"
        spent = f"{self.budget.effort} steps, " if self.budget.steps else ""
        failed = f"; {FAILED}" if self.failed else ""
        doubt = f"; not converged: {self.doubt}" if self.doubt else ""
        few = f"; {n}" if (n := of_few(self.budget.records)) else ""
        return (
            f"{self.attack} by {self.adversary.party} {verb} {self.target}: "
            f"{self.measure} {short(self.value)} [{short(low)}, {short(high)}] "
            f"(chance {short(self.chance)}, nothing to find {short(self.control)}"
            f"{way}; {'active' if self.adversary.active else 'passive'}, knows "
            f"{self.adversary.knows}; {spent}{self.budget.records} records, "
            f"{self.budget.seconds:.1f} s){few}{failed}{doubt}"
        )


def of_few(records: int) -> str:
    """What is said beside an interval of so few records; empty where they are enough.

    Args:
        records: of which it was computed.
    """
    return f"only {records} record{'s' * (records != 1)}" if records < FEW else ""


def short(x: float) -> str:
    """A number as reports write it: four figures at most."""
    # Three decimals of what is near 1, three figures of what is small.
    return f"{x:.3f}" if 0.1 <= abs(x) < 1000 or x == 0 else f"{x:.3g}"
