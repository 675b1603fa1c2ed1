"""What attacks share: the best of a set of them, and how a value lies in rows.

A defence is as good as the best attack against it. Noise that stops the attack that a paper
happened to try may be taken off by the next one, so a set of attacks has one score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import one_of
from jsplit.privacy.scores import Score

GAINED = "gained in the last tenth"
"""In `Score.more`: what share of all that an attack has gained, by its own error and not by
the truth, came in the last tenth of its steps. Where that is much it needs more steps."""


def gained(start: float, late: float, end: float) -> float:
    """The share of an attack's gain that came in the last tenth of its steps.

    Args:
        start: its own error before the first step.
        late: after nine tenths of them.
        end: after the last.

    Returns:
        From 0, where it stood still, over 0.1 of a straight line; 0 if nothing was gained.
    """
    whole = start - end
    # Of NaN or infinity nothing can be said, and a comparison with NaN is false.
    if not (np.isfinite(whole) and whole > 0 and late > end):
        return 0.0
    return float(min(1.0, (late - end) / whole))


def best(scores: Sequence[Score]) -> Score:
    """Give the score of a set of attacks: that of the attack that leaks most.

    Of equal values it is the one whose interval keeps farther from chance, then the
    first. The largest of many numbers is itself biased upwards: with many attacks on
    few records, look at their controls too.

    Args:
        scores: of attacks on the same target by the same measure.

    Returns:
        The one of them that leaks most.

    Raises:
        ValueError: if there is none, or they differ in target or measure, or in which
            way the measure points.

    Example:
        >>> from jsplit.privacy import Adversary, Budget, Score, best
        >>> rest = 0.5, 0.5, True, Adversary("client", ""), Budget(0, 8, 0.1)
        >>> norm = Score("norm", "label", "AUC", 0.7, (0.6, 0.8), *rest)
        >>> cosine = Score("cosine", "label", "AUC", 0.9, (0.8, 1.0), *rest)
        >>> best([norm, cosine]).attack
        'cosine'
    """
    if not scores:
        raise ValueError("`scores` must hold one score at least, got none.")
    kinds = {(s.target, s.measure, s.larger_leaks) for s in scores}
    if len(kinds) > 1:
        got = ", ".join(sorted(f"{s.measure} of {s.target}" for s in scores))
        raise ValueError(
            f"`scores` must be of one target by one measure to be compared, got {got}."
        )
    sign = 1 if scores[0].larger_leaks else -1

    def leak(score: Score) -> tuple[float, float]:
        # The end that is nearer to chance: what the attack has shown for certain.
        low, high = score.interval
        found = sign * score.value, sign * (low if sign > 0 else high)
        # An attack that ended in NaN has found nothing, and compares with no other.
        return (-np.inf, -np.inf) if np.isnan(found).any() else found

    return max(scores, key=leak)


def pick(values: Mapping[str, PyTree], value: str | None, what: str) -> str:
    """The name of the value that an attack reads, given or the only one.

    Args:
        values: those that there are.
        value: the one that is asked for, or `None`.
        what: what they are, for the error: "cotangents that came to `client`".

    Returns:
        Its name.

    Raises:
        ValueError: if there is none, not that one, or the choice is the caller's.
    """
    if not values:
        raise ValueError(
            f"`traffic` has no {what}: without them there is nothing to attack."
        )
    if value is not None:
        one_of("value", value, [*values])
        return value
    if len(values) > 1:
        names = ", ".join(f"`{name}`" for name in values)
        raise ValueError(f"`value` must say which of {what} to read: {names}.")
    return next(iter(values))


def rows(name: str, value: PyTree, records: int) -> jax.Array:
    """A value as one row of numbers for each record, the arrays of a pytree side by side.

    Args:
        name: of the value, for the error.
        value: arrays [records, ...].
        records: how many there must be.

    Returns:
        float32 [records, numbers].

    Raises:
        ValueError: if arrays are of other records, or hold NaN or infinity.
    """
    # Arrays of integers have no cotangent, and there is `None` in their place.
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(value)]
    leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    sizes = [x.shape[:1] for x in leaves]
    if not leaves or set(sizes) != {(records,)}:
        got = ", ".join(str(x.shape) for x in leaves) or "no floating array"
        raise ValueError(
            f"`{name}` must have one row for each of {records} records, got {got}."
        )
    flat = [x.reshape(records, -1).astype(jnp.float32) for x in leaves]
    found = jnp.concatenate(flat, axis=1)
    bad = int((~jnp.isfinite(found)).any(1).sum())
    if bad:
        raise ValueError(
            f"`{name}` holds NaN or infinity in {bad} of {records} records."
        )
    return found


def units(x: jax.Array) -> jax.Array:
    """Rows as directions: each divided by its norm; rows of zeros stay.

    Args:
        x: [records, numbers].

    Returns:
        The same shape.
    """
    # By the largest entry first: squares of cotangents of 1e-20 are 0 in 32 bits. And
    # before that by a power of two: XLA multiplies by 1 / 1e38, which is 0 in 32 bits.
    largest = jnp.abs(x).max(-1, keepdims=True)
    near = jnp.where(largest > 1, 2.0**-64, 2.0**60).astype(x.dtype)
    x = x * near
    x = x / jnp.maximum(largest * near, jnp.finfo(x.dtype).tiny)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)


def key_or_default(key: jax.Array | None) -> jax.Array:
    """The key that an attack draws from: by default a fixed one, so that it is repeatable."""
    return jax.random.key(0) if key is None else key


def seed_of(key: jax.Array) -> int:
    """A seed for what draws on the host, from a key."""
    return int(np.asarray(jax.random.randint(key, (), 0, 2**31 - 1)))
