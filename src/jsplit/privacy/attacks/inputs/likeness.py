"""Whether public records are of the kind of private ones, as far as mean and spread tell.

Who learns from other records, or from the same in other units, finds little, and that
shows no protection.
"""

from __future__ import annotations

import numpy as np

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
    # As a number of Python: one of 32 bits would be infinite for records of 1e30.
    near = float(np.finfo(np.float32).eps) * float((ours**2).mean())
    if off > FAR * spread + near:
        return (
            "the mean of its public records is far from these: are they in other units?"
        )
    if not spread / WIDE - near <= wide <= WIDE * spread + near:
        return "its public records do not vary as these do"
    return ""
