"""A score says on which side of chance it lies, whichever way a larger number points."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jsplit.privacy import Adversary, Budget, Score


@pytest.mark.parametrize(
    ("interval", "larger_leaks", "beats"),
    [
        ((0.6, 0.8), True, True),
        ((0.4, 0.8), True, False),
        ((0.1, 0.3), False, True),
        ((0.1, 0.6), False, False),
    ],
)
def test_a_score_beats_chance_if_its_whole_interval_does(interval, larger_leaks, beats):
    adversary, budget = Adversary("client", "nothing"), Budget(0, 8, 0.1)
    value = sum(interval) / 2
    score = Score(
        *("norm", "label", "AUC", value, interval, 0.5, 0.5, larger_leaks),
        adversary,
        budget,
    )
    assert score.beats_chance is beats
    # One that is worse than a guess shows no protection, and says so.
    low, high = interval
    turned = replace(score, interval=(1 - high, 1 - low))
    assert turned.failed is beats and not score.failed
    assert ("failed (worse than a guess)" in str(turned)) is beats
