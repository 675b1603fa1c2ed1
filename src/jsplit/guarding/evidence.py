"""What a guard looks for, and what it says of a window of steps: numbers, never a record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from jsplit.core.checks import as_positive_int, shown

POLICIES = ("warn", "stop")


class Statistic(StrEnum):
    """By what a window is judged."""

    CHAIN_RULE = "chain rule"
    EXCESS = "excess coherence"
    ONE_WAY = "one way"


@dataclass(frozen=True)
class Guard:
    """When a party takes what comes back to be none of the loss that was agreed on.

    The thresholds lie between honest and hijacked windows of three data sets; how often
    they are wrong is measured by `experiments/privacy/guard.py`.

    A party that gets answers and gives their cotangents, as the client of a U-shape,
    knows on its own what should come back; the others see only that all their records
    are pushed one way, which an honest loss does too until its bias is learned. So they
    wait longer.

    Attributes:
        window: how many steps are judged together.
        excess: the largest coherence of the cotangents of a window beyond that of what
            the party gave for the answers; of few records chance makes some, so 2 over
            the records of the window are added to it.
        chain_rule: the smallest mean of the chain rule's cosines in a window.
        one_way: where there are no answers, the largest `jsplit.guarding.one_way`.
        answered: so many suspicious windows in a row are an alarm where there are
            answers; or so many beyond a quarter of those without suspicion.
        alone: so many are where there are none.
        policy: "warn": an alarm is logged and the training goes on; "stop": it ends the
            run of all parties, who are told.

    Raises:
        ValueError: if a number is none of its range, or there is no such policy.

    Example:
        >>> from jsplit.guarding import Guard
        >>> Guard(policy="stop").window
        20
    """

    window: int = 20
    excess: float = 0.015
    chain_rule: float = 0.25
    one_way: float = 0.11
    answered: int = 2
    alone: int = 10
    policy: str = "warn"

    def __post_init__(self) -> None:
        for name in ("window", "answered", "alone"):
            as_positive_int(name, getattr(self, name))
        for name in ("excess", "chain_rule", "one_way"):
            given = getattr(self, name)
            number = isinstance(given, (int, float)) and not isinstance(given, bool)
            if not (number and 0 < given < 1):
                raise ValueError(
                    f"`{name}` must be a number between 0 and 1, got {shown(given)}."
                )
        if self.policy not in POLICIES:
            raise ValueError(
                f"`policy` must be one of {', '.join(POLICIES)}, got "
                f"{shown(self.policy)}."
            )


@dataclass(frozen=True)
class Evidence:
    """What was found in one window.

    Attributes:
        value: what the party sent, by its name in the topology.
        test: "excess coherence" or "chain rule" where the party has answers to what it
            sent, the one that is suspicious if one is; else "one way".
        first: the number of the window's first step.
        last: that of its last.
        statistic: what was measured; NaN if all that came was zeros.
        threshold: what it is compared with.

    Example:
        >>> from jsplit.guarding import Evidence
        >>> found = Evidence("smashed", "one way", 0, 19, 0.4, 0.11)
        >>> print(found)
        `smashed`, steps 0 to 19: one way 0.400, above 0.11: suspicious
    """

    value: str
    test: str
    first: int
    last: int
    statistic: float
    threshold: float

    @property
    def suspicious(self) -> bool:
        """Whether the window is on the wrong side of the threshold.

        Returns:
            Whether it is; not where nothing was measured.

        Example:
            >>> from jsplit.guarding import Evidence
            >>> Evidence("up", "chain rule", 0, 19, 0.9, 0.25).suspicious
            False
        """
        if math.isnan(self.statistic):
            return False
        # Of an honest server the chain rule is near 1, all others near 0.
        above = self.statistic > self.threshold
        return not above if self.test == Statistic.CHAIN_RULE else above

    def __str__(self) -> str:
        above = self.statistic > self.threshold
        side = "above" if above else "at most"
        verdict = "suspicious" if self.suspicious else "nothing found"
        if math.isnan(self.statistic):
            side, verdict = "to compare with", "nothing to judge by"
        return (
            f"`{self.value}`, steps {self.first} to {self.last}: {self.test} "
            f"{self.statistic:.3f}, {side} {self.threshold:g}: {verdict}"
        )
