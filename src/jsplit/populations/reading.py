"""The order in which clients read their records, and who fails before it is through.

Randomness comes from generators that the caller seeds, so nothing here depends
on what was drawn before.
"""

from __future__ import annotations

import numpy as np


def read_epochs(
    records: np.ndarray, rng: np.random.Generator, batch: int, epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pass over one client's records `epochs` times, each time in a new order.

    Args:
        records: the client's records, int [n].
        rng: where the orders are drawn from.
        batch: records in a step.
        epochs: how many passes. Each ends in a step with what is left, filled
            up.

    Returns:
        The records read, [steps, batch], and how much each counts, float32
        [steps, batch].
    """
    padded = -(-len(records) // batch) * batch
    orders = []
    for _ in range(epochs):
        # `resize` repeats the order from its start: the padding is the
        # client's own records, since BatchNorm sees padding too, whatever its
        # weight.
        orders.append(np.resize(rng.permutation(records), padded))

    counts = (np.arange(padded) < len(records)).astype(np.float32)
    weight = np.tile(counts, epochs)
    return np.concatenate(orders).reshape(-1, batch), weight.reshape(-1, batch)


def read_steps(
    records: np.ndarray, rng: np.random.Generator, batch: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read exactly `steps` full batches of one client's records, pass after pass.

    Args:
        records: the client's records, int [n].
        rng: where the orders are drawn from.
        batch: records in a step.
        steps: how many steps.

    Returns:
        The records read, [steps, batch], and how much each counts: 1
        everywhere.
    """
    passes = -(-steps * batch // len(records))
    order = np.concatenate([rng.permutation(records) for _ in range(passes)])
    # A batch may cross from one pass into the next, so no step is ragged.
    reads = order[: steps * batch].reshape(steps, batch)
    return reads, np.ones((steps, batch), np.float32)


def draw_failures(
    rng: np.random.Generator, steps: np.ndarray, dropout: float, unfinished: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw how many of its steps each client takes, and the fraction of its work that is.

    Args:
        rng: where failures are drawn from.
        steps: the steps that each client would take, int32 [K].
        dropout: probability that a client fails, before a step drawn uniformly
            from its steps.
        unfinished: `"keep"` the steps before the failure, or `"discard"` them.

    Returns:
        The steps taken, int32 [K], and the fraction of all steps they are,
        float [K].
    """
    # Both draws are made whether anybody can fail or not, so that the
    # generator stands at the same place after them.
    fails = rng.random(len(steps)) < dropout
    survived = rng.integers(0, steps)

    if unfinished == "discard":
        survived = np.zeros_like(survived)
    taken = np.where(fails, survived, steps).astype(np.int32)
    return taken, taken / steps
