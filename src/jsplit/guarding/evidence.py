"""What a guard looks for, and what it says of a window of steps: numbers, never a record."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jsplit.core.checks import as_positive_int, shown


@dataclass(frozen=True)
class Guard:
    """When a party takes what comes back to be none of the loss that was agreed on.

    The defaults lie between honest and hijacked windows of three data sets; how often
    they are wrong is measured by `experiments/privacy/guard.py`.

    Attributes:
        window: how many steps are judged together.
        coherence: the largest coherence of the cotangents of a window.
        chain_rule: the smallest mean of the chain rule's cosines in a window.

    Raises:
        ValueError: if a number is none of its range.

    Example:
        >>> from jsplit.guarding import Guard
        >>> Guard(window=50).chain_rule
        0.375
    """

    window: int = 20
    coherence: float = 0.1
    chain_rule: float = 0.375

    def __post_init__(self) -> None:
        as_positive_int("window", self.window)
        for name in ("coherence", "chain_rule"):
            given = getattr(self, name)
            number = isinstance(given, (int, float)) and not isinstance(given, bool)
            if not (number and 0 < given < 1):
                raise ValueError(
                    f"`{name}` must be a number between 0 and 1, got {shown(given)}."
                )


@dataclass(frozen=True)
class Evidence:
    """What was found in one window.

    Attributes:
        value: what the party sent, by its name in the topology.
        test: "chain rule" where the party has answers to what it sent, else
            "coherence".
        first: the number of the window's first step.
        last: that of its last.
        statistic: what was measured; NaN if all that came was zeros.
        threshold: what it is compared with.

    Example:
        >>> from jsplit.guarding import Evidence
        >>> found = Evidence("smashed", "coherence", 0, 19, 0.4, 0.1)
        >>> print(found)
        `smashed`, steps 0 to 19: coherence 0.400, above 0.1: suspicious
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
            >>> Evidence("up", "chain rule", 0, 19, 0.9, 0.375).suspicious
            False
        """
        if math.isnan(self.statistic):
            return False
        # Of an honest server the one is near 0, the other near 1.
        above = self.statistic > self.threshold
        return above if self.test == "coherence" else not above

    def __str__(self) -> str:
        above = self.statistic > self.threshold
        side = "above" if above else "at most"
        verdict = "suspicious" if self.suspicious else "nothing found"
        if math.isnan(self.statistic):
            side, verdict = "to compare with", "nothing to judge by"
        return (
            f"`{self.value}`, steps {self.first} to {self.last}: {self.test} {self.statistic:.3f}, "
            f"{side} {self.threshold:g}: {verdict}"
        )
