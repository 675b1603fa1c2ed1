"""The statistics of a window, added up step by step: a few sums, and no record is kept."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.guarding.chain import chain_rule
from jsplit.guarding.directions import directions, of_sum, one_way, unit_rows
from jsplit.guarding.evidence import Evidence, Guard, Statistic
from jsplit.guarding.flattening import flat


class Tally(NamedTuple):
    """Sums over the steps of a window, as far as it has come.

    Attributes:
        total: the sum of all records' cotangents, each step's over their root mean
            square norm, float32 [numbers].
        directions: the sum of these, each over its own norm, float32 [numbers].
        records: how many there were, float32 [].
        gave: as `total`, of the cotangents that the party gave for answers; of no
            numbers where there are none.
        given: how many records these were of, float32 [].
        cosines: the sum of the chain rule's cosines, float32 [].
        steps: how many steps had one, float32 [].

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import begin
        >>> begin({"h": jnp.zeros((8, 3))}).total.shape
        (3,)
    """

    total: jax.Array
    directions: jax.Array
    records: jax.Array
    gave: jax.Array
    given: jax.Array
    cosines: jax.Array
    steps: jax.Array


def begin(like: PyTree, gave: PyTree | None = None) -> Tally:
    """The tally of a window of which nothing has come.

    Args:
        like: cotangents of a step, or shapes and dtypes of them, [records, ...].
        gave: the same of those that the party gives for answers, if there are any.

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

    def zeros(name: str, value: PyTree) -> jax.Array:
        return jnp.zeros(jax.eval_shape(lambda x: flat(name, x), value).shape[1])

    total, zero = zeros("like", like), jnp.float32(0)
    of_answers = jnp.zeros(0) if gave is None else zeros("gave", gave)
    return Tally(total, total, zero, of_answers, zero, zero, zero)


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
    total, records, told = _sum("returned", returned)
    here = Tally(
        total=total.sum(0),
        directions=directions(total).sum(0),
        records=records,
        gave=jnp.zeros(0),
        given=jnp.float32(0),
        cosines=jnp.float32(0),
        steps=jnp.float32(0),
    )
    if received is not None and gave is not None:
        cosine = chain_rule(sent, returned, received, gave)
        of_answers, given, _ = _sum("gave", gave)
        has = jnp.isfinite(cosine)
        here = here._replace(
            # What came for nothing that was given is not compared with anything.
            gave=jnp.where(told, of_answers.sum(0), 0.0),
            given=jnp.where(told, given, 0.0),
            cosines=jnp.where(has, cosine, 0.0),
            steps=jnp.float32(has),
        )
    return jax.tree.map(jnp.add, tally, here)


def _sum(name: str, value: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of a step over their root mean square, how many, and whether they tell anything."""
    rows = unit_rows(flat(name, value))
    # Of zeros, and of what is not finite, there is nothing to be told.
    told = jnp.isfinite(rows).all()
    return jnp.where(told, rows, 0.0), jnp.float32(told * rows.shape[0]), told


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
            and the excess over what it gave are looked at; else it is how far all is
            pushed one way.

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
    where = value, first, last
    pushed, excess, cosine = measured(tally)
    if not answered:
        return _evidence(where, Statistic.ONE_WAY, pushed, guard.one_way)
    both = [
        _evidence(where, Statistic.EXCESS, excess, guard.excess),
        _evidence(where, Statistic.CHAIN_RULE, cosine, guard.chain_rule),
    ]
    return next((e for e in both if e.suspicious), both[-1])


@jax.jit
def measured(tally: Tally) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The statistics of a window, float32 [] each: one way, excess coherence, chain rule.

    Args:
        tally: of its steps.

    Returns:
        The three numbers; NaN where there is nothing to measure.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import begin, measured, note
        >>> h = jnp.ones((8, 3))
        >>> round(float(measured(note(begin(h), h, h))[0]), 4)
        1.0
    """
    returned = of_sum(tally.total, tally.records)
    pushed = one_way(returned, of_sum(tally.directions, tally.records))
    # An honest answer turns and stretches what was given, and adds nothing to all alike.
    excess = returned - jnp.maximum(of_sum(tally.gave, tally.given), 0)
    cosine = tally.cosines / jnp.where(tally.steps > 0, tally.steps, jnp.nan)
    return pushed, excess, cosine


def _evidence(
    where: tuple[str, int, int], test: Statistic, found: jax.Array, threshold: float
) -> Evidence:
    value, first, last = where
    return Evidence(value, str(test), first, last, float(found), threshold)
