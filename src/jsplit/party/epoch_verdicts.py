"""The verdict on an epoch, as one party says it to all others: five words, each checked.

A word and the number of its epoch are all of it, unless the parties agreed that it tells the
number that was measured too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np


class Word(IntEnum):
    """What is said after a batch of a validation; the last batch has the verdict."""

    MEASURED = 0
    CONTINUE = 1
    BEST = 2
    STOP = 3
    BEST_AND_STOP = 4

    @property
    def best(self) -> bool:
        """Whether the epoch is the best so far."""
        return self in (Word.BEST, Word.BEST_AND_STOP)

    @property
    def stops(self) -> bool:
        """Whether the training ends with it."""
        return self in (Word.STOP, Word.BEST_AND_STOP)


def word_of(*, best: bool, stops: bool) -> Word:
    """The verdict on an epoch."""
    if stops:
        return Word.BEST_AND_STOP if best else Word.STOP
    return Word.BEST if best else Word.CONTINUE


def frame_of(epoch: int, word: Word, told: float | None) -> list[np.ndarray]:
    """The arrays of a verdict.

    Args:
        epoch: its number.
        word: what is said.
        told: what was measured, where it was agreed to tell it.
    """
    found = [np.array([epoch, word], np.int32)]
    return found if told is None else [*found, np.array(told, np.float64)]


def read(
    arrays: Sequence[np.ndarray], epoch: int, *, last: bool
) -> tuple[Word, float | None]:
    """What a verdict says, checked as all that comes from another party.

    Args:
        arrays: of the frame; their shapes were looked at as it came.
        epoch: that it must be of.
        last: whether this is the place of the verdict, after the last batch.

    Raises:
        ValueError: saying what is wrong, without a number that was measured.
    """
    number, code = (int(x) for x in arrays[0])
    if number != epoch:
        raise ValueError(f"a verdict on epoch {number} in epoch {epoch}")
    if code not in [*Word]:
        raise ValueError(f"the word {code}, which is no verdict")
    word = Word(code)
    if (word is Word.MEASURED) == last:
        raise ValueError(
            f"{word.name.lower()} {'in the place of a' if last else 'before the'} verdict"
        )
    # Of the first epoch there is none that could be better.
    if last and epoch == 0 and not word.best:
        raise ValueError("that the first epoch is not the best so far")
    return word, float(arrays[1]) if len(arrays) > 1 else None
