"""Tokens by the nearest row of a public embedding: no text, no question and no step.

An embedding is a table that everybody has. What a bottom makes of it may still lie nearest to
the row it came from.
"""

from __future__ import annotations

from time import perf_counter

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.attacks.attack import key_or_default, units
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.tokens import came_of, recovered
from jsplit.privacy.measures.records import array_of
from jsplit.privacy.scores import Adversary, Budget
from jsplit.privacy.traffic import Traffic

SOURCE = "the nearest row of a public embedding, a baseline of embedding inversion"
CHUNK = 1024  # activations that are compared with the table at a time


def nearest_tokens(
    traffic: Traffic,
    tokens: PyTree,
    table: PyTree,
    *,
    value: str | None = None,
    positions: PyTree = None,
    target: str = "tokens",
    key: jax.Array | None = None,
) -> Inversion:
    """Take each activation for the token whose public embedding points most alike.

    A passive adversary that has the embedding of a pretrained model, as everybody has.
    It needs no text and no question. Rows are compared by cosine, once both sides'
    means are taken off: those are large in language models, and shared by all tokens.

    Args:
        traffic: what the adversary has seen: activations that came,
            [records, positions, width], of one model.
        tokens: the truth, int [records, positions]; negative where there is none, as a
            filler, which does not count.
        table: public embedding, [vocabulary, width].
        value: which activation, where several came.
        positions: public embedding of positions, [positions, width], where the model
            adds one: it is taken off first.
        target: the name of the field, for the score.
        key: a PRNG key, for the control and the interval.

    Returns:
        The accuracy over tokens, by a bootstrap over records, since tokens of one are
        not independent. `control` is that of a table whose rows were exchanged,
        `chance` that of the most frequent token of the truth.

    Raises:
        ValueError: if no activation came, or shapes do not fit.

    References:
        The baseline of what `inverted_tokens` is of: Song and Raghunathan,
        `Information leakage in embedding models <https://arxiv.org/abs/2004.00053>`_,
        2020.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, nearest_tokens
        >>> table = jax.random.normal(jax.random.key(0), (50, 16))
        >>> tokens = jax.random.randint(jax.random.key(1), (20, 6), 0, 50)
        >>> seen = Traffic("server", jnp.zeros(20, int), {"h": 3 * table[tokens] + 1})
        >>> nearest_tokens(seen, tokens, table).score.value
        1.0
    """
    start = perf_counter()
    key = key_or_default(key)
    came, true = came_of(traffic, tokens, value)
    rows = array_of("table", table)
    if rows.ndim != 2 or rows.shape[1] != came.shape[2] or true.max() >= len(rows):
        raise ValueError(
            f"`table` must be [vocabulary, {came.shape[2]}] with a row for every token, "
            f"got {shown(rows)}."
        )
    if positions is not None:
        added = array_of("positions", positions)
        if added.shape[1:] != came.shape[2:] or len(added) < came.shape[1]:
            raise ValueError(
                f"`positions` must be [{came.shape[1]}, {came.shape[2]}] or have more "
                f"rows, got {shown(added)}."
            )
        came = came - added[: came.shape[1]]
    guess = _nearest(came, rows)
    budget = Budget(0, len(came), perf_counter() - start)
    exchanged = jax.random.permutation(jax.random.fold_in(key, 1), rows)
    adversary = Adversary(traffic.party, "a public embedding", source=SOURCE)
    nothing = _nearest(came, exchanged)
    name = "nearest embedding"
    return recovered(name, target, true, guess, nothing, adversary, budget, key)


def _nearest(came: jax.Array, rows: jax.Array) -> np.ndarray:
    """The row of the table that points most alike, int [records, positions]."""
    flat = came.reshape(-1, came.shape[2])
    flat, rows = flat - flat.mean(0), rows - rows.mean(0)
    # Lengths of activations are the same for all rows, and do not choose between them.
    unit = units(rows)
    parts = [
        np.asarray(_argmax(flat[low : low + CHUNK], unit))
        for low in range(0, len(flat), CHUNK)
    ]
    return np.concatenate(parts).reshape(came.shape[:2])


@jax.jit
def _argmax(h: jax.Array, unit: jax.Array) -> jax.Array:
    return (h @ unit.T).argmax(1)
