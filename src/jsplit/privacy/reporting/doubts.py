"""Why an attack that was run may reach more: few steps, gaining still, unlike public records.

An attack that was stopped early makes every defence look good, so a report marks it.
"""

from __future__ import annotations

import numpy as np

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


FAR = 2.0  # times the variance of records: the error of the mean of public ones
WIDE = 9.0  # times a variance, one way or the other


def unlike(public: np.ndarray | None, truth: np.ndarray) -> str:
    """Why records that are public are none of the kind of private ones.

    Who learns from other records, or from the same in other units, finds little, and what
    the mean of them is off is no chance of anything.

    Args:
        public: that an attack learned from, [public, ...], or `None`.
        truth: the private ones, [records, ...].

    Returns:
        In words; empty if there is no sign of it.
    """
    if public is None or not len(public) or not len(truth):
        return ""
    ours, theirs = (np.asarray(x, np.float64) for x in (truth, public))
    spread = float(((ours - ours.mean(0)) ** 2).mean())
    wide = float(((theirs - theirs.mean(0)) ** 2).mean())
    off = float(((ours - theirs.mean(0)) ** 2).mean())
    # Records that are all the same have no spread to compare with.
    near = np.finfo(np.float32).eps * float((ours**2).mean())
    if off > FAR * spread + near:
        return (
            "the mean of its public records is far from these: are they in other units?"
        )
    if not spread / WIDE - near <= wide <= WIDE * spread + near:
        return "its public records do not vary as these do"
    return ""
