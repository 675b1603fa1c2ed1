"""Tokens by an inverter that was trained on public text, one position at a time.

Where a block has turned the rows of an embedding, none of them is near any more, and a linear
map learned on public text turns them back.
"""

from __future__ import annotations

from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.attack import key_or_default
from jsplit.privacy.attacks.inputs.fitting import Fit, classed, fitted, outputs
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.networks import checked, dense
from jsplit.privacy.attacks.inputs.seen import Known, Query, known_of
from jsplit.privacy.attacks.inputs.tokens import (
    by_position,
    came_of,
    integers,
    recovered,
)
from jsplit.privacy.attacks.rates import check_rates
from jsplit.privacy.scores import Adversary, Budget
from jsplit.privacy.traffic import Traffic

SOURCE = "Song and Raghunathan, Information leakage in embedding models, 2020"


def inverted_tokens(
    traffic: Traffic,
    tokens: PyTree,
    public: PyTree,
    query: Query,
    *,
    vocabulary: int,
    value: str | None = None,
    inverter: Segment | None = None,
    hidden: int = 0,
    steps: int = 1000,
    batch: int = 256,
    learning_rate: float = 1e-2,
    target: str = "tokens",
    key: jax.Array | None = None,
) -> Inversion:
    """Recover tokens by an inverter that was trained on public text.

    A passive adversary that has public text and its activations: from a copy of the
    bottom, or from questions to it. The inverter reads one position at a time.

    Args:
        traffic: what the adversary has seen: activations that came,
            [records, positions, width], of one model.
        tokens: the truth, int [records, positions]; negative where there is none.
        public: public tokens, int [public, positions], negative where there is none.
        query: activations of `public`, [public, positions, width], or a function that
            gives them of it, which is given 0 in the place of negative ones.
        vocabulary: how many tokens there are.
        value: which activation, where several came.
        inverter: a segment of one input [batch, width] that gives [batch, vocabulary];
            by default linear, or with one hidden layer.
        hidden: width of that layer; 0 for none.
        steps: of Adam.
        batch: tokens a step.
        learning_rate: of Adam, falling to 0.
        target: the name of the field, for the score.
        key: a PRNG key.

    Returns:
        As `nearest_tokens`. `control` is that of an inverter that was trained on
        shuffled pairs, `chance` that of the most frequent token of public text.

    Raises:
        ValueError: if no activation came, shapes do not fit, or there is no public text.

    References:
        Song and Raghunathan, `Information leakage in embedding models
        <https://arxiv.org/abs/2004.00053>`_, 2020.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, inverted_tokens
        >>> h = jax.random.normal(jax.random.key(0), (9, 16))
        >>> tokens = jax.random.randint(jax.random.key(1), (80, 6), 0, 9)
        >>> seen = Traffic("server", jnp.zeros(20, int), {"h": h[tokens[:20]]})
        >>> given = seen, tokens[:20], tokens[20:], lambda tokens: h[tokens]
        >>> inverted_tokens(*given, vocabulary=9, steps=50).score.beats_chance
        True
    """
    start = perf_counter()
    key = key_or_default(key)
    for name, count in {
        "steps": steps,
        "batch": batch,
        "vocabulary": vocabulary,
    }.items():
        as_positive_int(name, count)
    check_rates(learning_rate=learning_rate)
    came, true = came_of(traffic, tokens, value)
    text = _public(public, true, vocabulary)
    pairs = _pairs(query, text, came)
    network = inverter or dense((hidden,) if hidden else (), (vocabulary,))
    checked("inverter", network, pairs.private, (vocabulary,))
    fit = Fit(network, classed, steps, batch, learning_rate)

    def guessed(pairs: Known) -> np.ndarray:
        params = fitted(fit, pairs.public, pairs.truth, key).params
        logits = outputs(network, params, pairs.private)
        return np.asarray(logits.argmax(-1)).reshape(true.shape)

    guess = guessed(pairs)
    budget = Budget(steps, len(came), perf_counter() - start)
    nothing = guessed(pairs.shuffled(jax.random.fold_in(key, 1)))
    knows = f"{len(text)} public texts and their activations"
    count = len(text)
    adversary = Adversary(
        traffic.party, knows, public=count, labelled=count, source=SOURCE
    )
    frequent = int(np.bincount(text[text >= 0]).argmax())
    name = "token inverter"
    return recovered(
        *(name, target, true, guess, nothing, adversary, budget, key), frequent
    )


def _public(public: PyTree, true: np.ndarray, vocabulary: int) -> np.ndarray:
    """Public text, within the vocabulary as the truth must be."""
    if public is None:
        raise ValueError("`public` must hold public text, got None.")
    text = integers("public", public)
    for name, given in {"tokens": true, "public": text}.items():
        if given.max() >= vocabulary:
            raise ValueError(f"`{name}` must be below `vocabulary`, {vocabulary}.")
    return text


def _pairs(query: Query, text: np.ndarray, came: jax.Array) -> Known:
    """Activations of public tokens, one by one, with those that came."""
    asked = query(jnp.asarray(np.maximum(text, 0))) if callable(query) else query
    answers, width = by_position("query", asked, len(text)), came.shape[2]
    if answers.shape != (*text.shape, width):
        raise ValueError(
            f"`query` must give activations {(*text.shape, width)} of `public`, got "
            f"{answers.shape}."
        )
    there = text >= 0
    return known_of(
        answers[there], text[there].astype(np.int32), came.reshape(-1, width)
    )
