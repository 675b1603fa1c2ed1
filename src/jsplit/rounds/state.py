"""The losses of a round: the record that users hold beside a `Federation`.

The forms of both inside a compiled program are in `carry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from jsplit.core.finite import Finite
from jsplit.rounds.recording import RecordedRound


class RoundInfo(NamedTuple):
    """The losses of a round, over all examples and by client.

    Attributes:
        loss: the sum of all losses, each times its weight; the mean over
            all examples of the round.
        losses: every loss and metric before its weight, by name, likewise.
        each: every loss by client that takes part, [K], the mean over its
            examples; NaN where it had none. Empty where clients step
            together. In `evaluate` metrics are among them.
        examples: how many examples each client had, [K].
        metrics: of `evaluate`, every `jsplit.Metric` by name, a number of
            Python's own, over all examples of the round.
        finite: whether what the steps of a round leave is finite, value by
            value; `None` where nobody looks.
        recorded: what crossed in each step of each client, of an algorithm of
            `jsplit.record`; `None` of others.

    Example:
        >>> from jsplit.rounds import RoundInfo
        >>> RoundInfo._fields
        ('loss', 'losses', 'each', 'examples', 'metrics', 'finite', 'recorded')
    """

    loss: jax.Array
    losses: Mapping[str, jax.Array]
    # Arrays, not numbers: reading a number would wait for the device in
    # every round.
    each: Mapping[str, jax.Array]
    examples: jax.Array
    metrics: Mapping[str, float | int | bool] = {}
    finite: Finite | None = None
    recorded: RecordedRound | None = None
