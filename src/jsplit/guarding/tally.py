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
from jsplit.guarding.readable import readable

BY_CHANCE = 2.0
"""Over the records of a window: what the threshold of an excess is raised by."""


class Tally(NamedTuple):
    """Sums over the steps of a window, as far as it has come.

    Those of two numbers are once over all places of a cotangent, once over the live ones
    alone (`readable`): a window is as suspicious as the worse of the two.

    Attributes:
        total: the sum of all records' cotangents, each step's over their root mean
            square norm, float32 [2, numbers].
        directions: the sum of these, each over its own norm, float32 [2, numbers].
        records: how many there were, float32 [2].
        gave: as `total`, of the cotangents that the party gave for answers, float32
            [2, numbers]; of no numbers where there are none.
        given: how many records these were of, float32 [2].
        cosines: the sum of the chain rule's cosines, float32 [2].
        steps: how many steps had one, float32 [2].
        spoiled: in how many steps something that came was not finite, float32 [].

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.guarding import begin
        >>> begin({"h": jnp.zeros((8, 3))}).total.shape
        (2, 3)
    """

    total: jax.Array
    directions: jax.Array
    records: jax.Array
    gave: jax.Array
    given: jax.Array
    cosines: jax.Array
    steps: jax.Array
    spoiled: jax.Array


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
        >>> begin(jnp.zeros((8, 3))).records.tolist()
        [0.0, 0.0]
    """

    def zeros(name: str, value: PyTree) -> jax.Array:
        return jnp.zeros((2, jax.eval_shape(lambda x: flat(name, x), value).shape[1]))

    total, zero = zeros("like", like), jnp.zeros(2)
    of_answers = jnp.zeros((2, 0)) if gave is None else zeros("gave", gave)
    spoiled = jnp.float32(0)
    return Tally(total, total, zero, of_answers, zero, zero, zero, spoiled)


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
        >>> note(begin(h), h, h).records.tolist()  # all are at one end: none is live
        [8.0, 0.0]
    """
    values, cotangents = flat("sent", sent), flat("returned", returned)
    looks = readable(values, cotangents)
    total, records, told = jax.vmap(_sum, (None, 0))(cotangents, looks)
    none = jnp.zeros(2)
    here = Tally(
        total=total.sum(1),
        directions=jax.vmap(directions)(total).sum(1),
        records=records,
        gave=jnp.zeros((2, 0)),
        given=none,
        cosines=none,
        steps=none,
        spoiled=jnp.float32(~jnp.isfinite(cotangents).all()),
    )
    if received is not None and gave is not None:
        answers, given_back = flat("received", received), flat("gave", gave)
        # A number of an answer that is not finite is none to take differences of.
        whole = jnp.isfinite(answers).all(0)
        answers = jnp.where(whole, answers, 0.0)
        given_back = jnp.where(whole & jnp.isfinite(given_back), given_back, 0.0)
        cosine = jnp.stack(
            [
                chain_rule(values, jnp.where(x, cotangents, 0.0), answers, given_back)
                for x in looks
            ]
        )
        everywhere = jnp.ones(given_back.shape, bool)
        of_answers, given, _ = _sum(given_back, everywhere)
        has = jnp.isfinite(cosine)
        here = here._replace(
            # What came for nothing that was given is not compared with anything.
            gave=jnp.where(told[:, None], of_answers.sum(0), 0.0),
            given=jnp.where(told, given, 0.0),
            cosines=jnp.where(has, cosine, 0.0),
            steps=jnp.float32(has),
            spoiled=jnp.maximum(here.spoiled, jnp.float32(~whole.all())),
        )
    return jax.tree.map(jnp.add, tally, here)


def _sum(table: jax.Array, looked: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of a step over their root mean square, how many, and whether they tell anything."""
    # A record of which nothing is looked at is not one that agrees with no other.
    there = looked.any(1)
    rows = unit_rows(jnp.where(looked, table, 0.0), there)
    # Of zeros there is nothing to be told.
    told = jnp.isfinite(rows).all()
    return jnp.where(told, rows, 0.0), jnp.float32(told * there.sum()), told


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
    # Of few records two honest coherences differ by chance: by sqrt(2) / records at most,
    # as a deviation. What comes of that is no excess.
    chance = BY_CHANCE / max(float(tally.records.max()), 1.0)
    both = [
        _evidence(where, Statistic.EXCESS, excess, round(guard.excess + chance, 4)),
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
    alike = jax.vmap(of_sum)
    returned = alike(tally.total, tally.records)
    pushed = one_way(returned, alike(tally.directions, tally.records))
    # An honest answer turns and stretches what was given, and adds nothing to all alike.
    excess = returned - jnp.maximum(alike(tally.gave, tally.given), 0)
    cosine = tally.cosines / jnp.where(tally.steps > 0, tally.steps, jnp.nan)
    # The worse of all places and the live ones; a NaN, of nothing, is left out.
    return jnp.fmax(*pushed), jnp.fmax(*excess), jnp.fmin(*cosine)


def _evidence(
    where: tuple[str, int, int], test: Statistic, found: jax.Array, threshold: float
) -> Evidence:
    value, first, last = where
    return Evidence(value, str(test), first, last, float(found), threshold)
