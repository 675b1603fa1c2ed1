"""Guesses of tokens: what they are of, how many are right, and in which records.

Tokens of one record are not independent, so that records are what an interval resamples.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.seen import as_received, laid_out
from jsplit.privacy.measures.bootstrap import interval
from jsplit.privacy.measures.records import array_of
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic


def integers(name: str, given: PyTree) -> np.ndarray:
    """Numbers of tokens, int64 [records, positions]; negative where there is none."""
    found = np.asarray(given)
    kind = np.issubdtype(found.dtype, np.integer)
    if found.ndim != 2 or not kind or not (found >= 0).any():
        raise ValueError(
            f"`{name}` must be numbers of tokens, integers [records, positions], got "
            f"{shown(given)}."
        )
    return found.astype(np.int64)


def by_position(name: str, value: PyTree, records: int) -> jax.Array:
    """A value as one array, [records, positions, width].

    Args:
        name: of the value, for the error.
        value: that array; or a pytree, as where a mask is carried with it, of which the
            floating arrays that are of positions lie side by side.
        records: how many it is of.

    Returns:
        float32 [records, positions, width], or of another shape if it is none such.

    Raises:
        ValueError: if it is not of so many records, or not finite.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(value)]
    floating = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    wide = [x for x in floating if x.ndim == 3]
    if len(leaves) == 1 or len({x.shape[:2] for x in wide}) != 1:
        return laid_out(name, value, records)
    return jnp.concatenate([array_of(name, x) for x in wide], -1)


def came_of(
    traffic: Traffic, tokens: PyTree, value: str | None
) -> tuple[jax.Array, np.ndarray]:
    """Activations by position, and the truth."""
    came = by_position(*as_received(traffic, value))
    true = integers("tokens", tokens)
    if came.ndim != 3 or came.shape[:2] != true.shape:
        raise ValueError(
            f"`tokens` must be of the activations that came, {came.shape}, which must "
            f"be [records, positions, width]; got {true.shape}."
        )
    if not (true >= 0).any(1).all():
        raise ValueError("`tokens` must have one token at least in each record.")
    return came, true


def recovered(
    attack: str,
    target: str,
    true: np.ndarray,
    guess: np.ndarray,
    control: np.ndarray,
    adversary: Adversary,
    budget: Budget,
    key: jax.Array,
    frequent: int | None = None,
) -> Inversion:
    """Measure guesses of tokens, over tokens and by record."""
    there = true >= 0
    if frequent is None:
        frequent = int(np.bincount(true[there]).argmax())
    right = ((guess == true) & there).sum(1)
    count = there.sum(1)
    # Of one record there is nothing to resample; its tokens say little of another's.
    ends = (0.0, 1.0)
    if len(true) > 1:
        ends = interval(_share, [right, count], jax.random.fold_in(key, 2))
    score = Score(
        attack,
        target,
        "accuracy",
        _share(right, count),
        ends,
        _share(((control == true) & there).sum(1), count),
        _share(((true == frequent) & there).sum(1), count),
        True,
        adversary,
        budget,
        {"records read whole": float((right == count).mean())},
    )
    return Inversion(score, np.where(there, guess, -1), 1 - right / count)


def _share(right: np.ndarray, count: np.ndarray) -> float:
    return float(right.sum() / count.sum())
