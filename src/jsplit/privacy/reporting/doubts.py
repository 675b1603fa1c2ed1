"""Why an attack that was run may reach more: it had few steps, or was gaining still.

An attack that was stopped early makes every defence look good, so a report marks it.
"""

from __future__ import annotations

from jsplit.privacy.attacks.attack import GAINED
from jsplit.privacy.reporting.attempt import Attempt
from jsplit.privacy.scores import Score

MUCH = (
    0.02  # of all that was gained, in the last tenth of steps; of a straight line 0.1
)


def doubt_of(attempt: Attempt, steps: int | None, score: Score) -> str:
    """Why an attack may reach more with more steps.

    Args:
        attempt: the attack.
        steps: that it was given; `None`: its own.
        score: what it reached.

    Returns:
        In words; empty if there is no sign of it.
    """
    if steps is not None and steps < attempt.steps:
        each = f", at each of {n} starts" if (n := score.budget.starts) > 1 else ""
        return f"{steps} of the {attempt.steps} steps that it takes by itself{each}"
    share = score.more.get(GAINED, 0.0)
    if share > MUCH:
        return f"{share:.0%} of its gain came in the last tenth of its steps"
    return ""
