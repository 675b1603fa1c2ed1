"""Learning rates by epoch: a schedule of epochs becomes one of steps, as optax counts.

By step a schedule of optax is right as it is, and by round `hyperparams` of `jsplit.fit` sets it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jsplit.core.checks import as_positive_int, one_of


def steps_per_epoch(records: int, batch: int = 32, last: str = "keep") -> int:
    """Count the steps that `jsplit.fit` takes in an epoch over arrays.

    Args:
        records: how many there are.
        batch: records of a step.
        last: what becomes of the ragged last batch, as for `jsplit.fit`.

    Returns:
        The number of steps.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jsplit
        >>> jsplit.fitting.steps_per_epoch(100, 32)
        4
        >>> jsplit.fitting.steps_per_epoch(100, 32, last="drop")
        3
    """
    records = as_positive_int("records", records)
    batch = as_positive_int("batch", batch)
    one_of("last", last, LAST)
    return records // batch if last == "drop" else -(-records // batch)


LAST = ("keep", "pad", "drop")
"""What may become of the ragged last batch."""


def by_epoch(
    schedule: Callable[[ArrayLike], ArrayLike], steps: int, *, smooth: bool = False
) -> Callable[[ArrayLike], jax.Array]:
    """Make a schedule by epoch into one by step, as optimizers of optax take it.

    Args:
        schedule: the rate of epoch 0, 1, ..., as any of optax's: its
            `decay_steps` are then epochs.
        steps: in an epoch, see `steps_per_epoch`.
        smooth: whether the rate moves within an epoch too: after half of it the
            schedule is asked for epoch 0.5. Otherwise it is the same in all its steps.

    Returns:
        A function of the count of steps.

    Raises:
        ValueError: if `steps` is no positive integer.

    Example:
        >>> import jsplit, optax
        >>> halved = optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.5)
        >>> rate = jsplit.fitting.by_epoch(halved, steps=4)
        >>> [float(rate(step)) for step in (0, 3, 4, 8)]
        [1.0, 1.0, 0.5, 0.25]
        >>> optimizer = optax.adam(rate)
    """
    steps = as_positive_int("steps", steps)

    def rate(count: ArrayLike) -> jax.Array:
        count = jnp.asarray(count)
        # As integers: a count of 24 bits and more is rounded as a float32.
        return jnp.asarray(schedule(count / steps if smooth else count // steps))

    return rate
