"""Token recovery: which words a language model's activations are of.

An embedding is a table that everybody has. What a bottom makes of it may still lie nearest to
the row it came from; and where it does not, an inverter learned on public text reads it.
"""

from __future__ import annotations

from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int, shown
from jsplit.privacy.attacks.attack import key_or_default
from jsplit.privacy.attacks.inputs.fitting import Fit, classed, fitted, outputs
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.networks import checked, dense
from jsplit.privacy.attacks.inputs.seen import Query, known_of, received
from jsplit.privacy.measures.bootstrap import interval
from jsplit.privacy.measures.records import array_of
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

NEAREST = "the nearest row of a public embedding, a baseline of embedding inversion"
INVERTER = "Song and Raghunathan, Information leakage in embedding models, 2020"
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
    came, true = _came(traffic, tokens, value)
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
    adversary = Adversary(traffic.party, "a public embedding", source=NEAREST)
    nothing = _nearest(came, exchanged)
    name = "nearest embedding"
    return _recovered(name, target, true, guess, nothing, adversary, budget, key)


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
    for name, count in {"steps": steps, "batch": batch, "vocabulary": vocabulary}.items():
        as_positive_int(name, count)
    came, true = _came(traffic, tokens, value)
    if public is None:
        raise ValueError("`public` must hold public text, got None.")
    text = _integers("public", public)
    for name, given in {"tokens": true, "public": text}.items():
        if given.max() >= vocabulary:
            raise ValueError(f"`{name}` must be below `vocabulary`, {vocabulary}.")
    asked = query(jnp.asarray(np.maximum(text, 0))) if callable(query) else query
    answers = array_of("query", asked)
    if answers.shape != (*text.shape, came.shape[2]):
        raise ValueError(
            f"`query` must give activations {(*text.shape, came.shape[2])} of `public`, "
            f"got {answers.shape}."
        )
    there = text >= 0
    flat = came.reshape(-1, came.shape[2])
    pairs = known_of(answers[there], text[there].astype(np.int32), flat)
    network = inverter or dense((hidden,) if hidden else (), (vocabulary,))
    checked("inverter", network, pairs.private, (vocabulary,))
    fit = Fit(network, classed, steps, batch, learning_rate)

    def guessed(truth: jax.Array) -> np.ndarray:
        params = fitted(fit, pairs.public, truth, key)
        logits = outputs(network, params, pairs.private)
        return np.asarray(logits.argmax(-1)).reshape(true.shape)

    guess = guessed(pairs.truth)
    budget = Budget(steps, len(came), perf_counter() - start)
    nothing = guessed(pairs.shuffled(jax.random.fold_in(key, 1)).truth)
    adversary = Adversary(
        traffic.party,
        f"{len(text)} public texts and their activations",
        public=len(text),
        labelled=len(text),
        source=INVERTER,
    )
    frequent = int(np.bincount(text[there]).argmax())
    name = "token inverter"
    return _recovered(
        *(name, target, true, guess, nothing, adversary, budget, key), frequent
    )


def _integers(name: str, given: PyTree) -> np.ndarray:
    found = np.asarray(given)
    kind = np.issubdtype(found.dtype, np.integer)
    if found.ndim != 2 or not kind or not (found >= 0).any():
        raise ValueError(
            f"`{name}` must be numbers of tokens, integers [records, positions], got "
            f"{shown(given)}."
        )
    return found.astype(np.int64)


def _came(
    traffic: Traffic, tokens: PyTree, value: str | None
) -> tuple[jax.Array, np.ndarray]:
    """Activations by position, and the truth."""
    came, true = received(traffic, value), _integers("tokens", tokens)
    if came.ndim != 3 or came.shape[:2] != true.shape:
        raise ValueError(
            f"`tokens` must be of the activations that came, {came.shape}, which must "
            f"be [records, positions, width]; got {true.shape}."
        )
    if not (true >= 0).any(1).all():
        raise ValueError("`tokens` must have one token at least in each record.")
    return came, true


def _nearest(came: jax.Array, rows: jax.Array) -> np.ndarray:
    """The row of the table that points most alike, int [records, positions]."""
    flat = came.reshape(-1, came.shape[2])
    flat, rows = flat - flat.mean(0), rows - rows.mean(0)
    # Lengths of activations are the same for all rows, and do not choose between them.
    unit = rows / (jnp.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
    parts = [
        np.asarray(_argmax(flat[low : low + CHUNK], unit))
        for low in range(0, len(flat), CHUNK)
    ]
    return np.concatenate(parts).reshape(came.shape[:2])


@jax.jit
def _argmax(h: jax.Array, unit: jax.Array) -> jax.Array:
    return (h @ unit.T).argmax(1)


def _recovered(
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
