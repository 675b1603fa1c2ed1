"""The statistics of a window, added up step by step: a few sums, and no record is kept."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.guarding.chain import chain_rule
from jsplit.guarding.directions import of_sum, unit_rows
from jsplit.guarding.evidence import Evidence, Guard
from jsplit.guarding.flattening import flat


class Tally(NamedTuple):
    """Sums over the steps of a window, as far as it has come.

    Attributes:
        total: the sum of all records' cotangents, each step's over their root mean
            square norm, float32 [numbers].
        records: how many there were, float32 [].
        cosines: the sum of the chain rule's cosines, float32 [].
        steps: how many steps had one, float32 [].

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import begin
        >>> begin({"h": jnp.zeros((8, 3))}).total.shape
        (3,)
    """

    total: jax.Array
    records: jax.Array
    cosines: jax.Array
    steps: jax.Array


def begin(like: PyTree) -> Tally:
    """The tally of a window of which nothing has come.

    Args:
        like: cotangents of a step, or shapes and dtypes of them, [records, ...].

    Returns:
        Zeros.

    Raises:
        ValueError: if there is no floating array, or they are of different records.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import begin
        >>> float(begin(jnp.zeros((8, 3))).records)
        0.0
    """
    width = jax.eval_shape(lambda x: flat("like", x), like).shape[1]
    zero = jnp.float32(0)
    return Tally(jnp.zeros(width), zero, zero, zero)


def note(
    tally: Tally,
    sent: PyTree,
    returned: PyTree,
    received: PyTree | None = None,
    gave: PyTree | None = None,
) -> Tally:
    """Add a step; pure, so that it runs in `jit` and `scan`.

    Args:
        tally: of the window so far.
        sent: values that the party sent, [records, ...].
        returned: their cotangents, as they came.
        received: answers that depend on what was sent, if there are any.
        gave: the cotangents that the party gave for them.

    Returns:
        The tally with the step.

    Raises:
        ValueError: if arrays do not fit each other.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import begin, note
        >>> h = jnp.ones((8, 3))
        >>> float(note(begin(h), h, h).records)
        8.0
    """
    table = flat("returned", returned)
    # Of zeros, and of what is not finite, there is nothing to be told.
    rows = unit_rows(table)
    told = jnp.isfinite(rows).all()
    total = tally.total + jnp.where(told, rows, 0.0).sum(0)
    records = tally.records + told * table.shape[0]
    cosine = jnp.float32(jnp.nan)
    if received is not None and gave is not None:
        cosine = chain_rule(sent, returned, received, gave)
    has = jnp.isfinite(cosine)
    cosines = tally.cosines + jnp.where(has, cosine, 0.0)
    return Tally(total, records, cosines, tally.steps + has)


def judge(
    tally: Tally, guard: Guard, value: str, first: int, last: int, *, answered: bool
) -> Evidence:
    """Judge a window.

    Args:
        tally: of its steps.
        guard: the thresholds.
        value: what the party sent, by name.
        first: the number of its first step.
        last: that of its last.
        answered: whether the party has answers to what it sent, so that the chain rule
            is looked at; else it is the coherence.

    Returns:
        The `Evidence`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import Guard, begin, judge, note
        >>> h = jnp.ones((8, 3))
        >>> tally = note(begin(h), h, h)
        >>> judge(tally, Guard(), "h", 0, 0, answered=False).suspicious
        True
    """
    if answered:
        test, threshold = "chain rule", guard.chain_rule
        statistic = tally.cosines / jnp.where(tally.steps > 0, tally.steps, jnp.nan)
    else:
        test, threshold = "coherence", guard.coherence
        statistic = of_sum(tally.total, tally.records)
    return Evidence(value, test, first, last, float(statistic), threshold)
