"""Generation: tokens drawn one after the other, at the party that has the logits.

A session computes the logits, in one process or over a network; what is drawn of them
crosses as the next token's activation alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.keys import is_key, typed_key
from jsplit.training.verdicts import NotFinite


class SessionLike(Protocol):
    """What `generate` asks for tokens: `jsplit.Session`, or `jsplit.party.session`."""

    fields: tuple[str, ...]
    batch: int
    length: int

    @property
    def position(self) -> int: ...

    def __call__(self, fields: Mapping[str, PyTree], /) -> PyTree: ...


_COLDEST = 1e-30


def generate(
    session: SessionLike,
    tokens: ArrayLike,
    steps: int,
    *,
    key: jax.Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    end: int | None = None,
) -> np.ndarray:
    """Generate tokens after a prompt.

    The token at a position is drawn of `jax.random.fold_in(key, position)`, so a
    sequence is the same whether it is generated at once, in parts, or again. With one
    key for all, what a sequence draws depends on how many there are; with a key for each
    it is what it would draw by itself.

    Args:
        session: of a topology that reads one field of tokens, and gives logits
            [batch, positions, vocabulary].
        tokens: the prompt, or what comes next in a session under way, int
            [batch, positions].
        steps: how many tokens to generate.
        key: tokens are drawn of it, or of one for each sequence, [batch] keys; without
            one each is the most likely.
        temperature: logits are divided by it before a token is drawn; it needs a `key`.
        top_k: draw of so many most likely tokens only (of those as likely as the last
            of them, too); it needs a `key`.
        end: a token after which a sequence has nothing but this token; once all
            sequences have it no more is computed.

    Returns:
        The tokens after the prompt, int32 [batch, at most `steps`]. The last of them
        has not been given to the session: it is what the next call begins with.

    Raises:
        ValueError: if the session has several fields or outputs, would be too long, or an
            argument does not fit.
        NotFinite: if a logit that a token would be drawn of is NaN or +inf, or no
            logit of a row is finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit, optax
        >>> table = jnp.tanh(jnp.eye(5))
        >>> embed = jsplit.segment(lambda tokens: jnp.sin(table[tokens]), name="h")
        >>> after = lambda h: jnp.roll(h, 1, axis=-1)  # the token after: one more
        >>> head = jsplit.segment(after, inputs="h", name="logits")
        >>> head = jsplit.with_cache(head, False)
        >>> topology = jsplit.vanilla(embed, head, loss=optax.squared_error)
        >>> trainer = jsplit.messages(topology, {})
        >>> prompt = jnp.array([[0, 1]])
        >>> like = {"tokens": prompt, "label": jnp.zeros((1, 2, 5))}
        >>> with jsplit.session(trainer, trainer.init(0, like), length=9) as s:
        ...     jsplit.generate(s, prompt, 4).tolist()
        [[2, 3, 4, 0]]
    """
    steps = as_positive_int("steps", steps)
    top_k = _checked_draw(key, temperature, top_k)
    if key is not None:
        key = _checked_key(key, session.batch)
    if end is not None and (
        isinstance(end, bool) or not isinstance(end, int | np.integer) or end < 0
    ):
        raise ValueError(f"`end` must be one token, an integer, got {shown(end)}.")
    given = _checked_prompt(session, tokens, steps)
    (field,) = session.fields
    found: list[np.ndarray] = []
    over = np.zeros(session.batch, bool)
    for _ in range(steps):
        logits = session({field: given})
        if isinstance(logits, Mapping) or getattr(logits, "ndim", 0) != 3:
            raise ValueError(
                "`session` must give logits [batch, positions, vocabulary] as its one "
                "output."
            )
        drawn, sound = _pick(logits[:, -1], key, session.position, temperature, top_k)
        if not sound:
            # The most likely of NaN is the first token, as if it had been meant; so it
            # is where all are -inf.
            raise NotFinite(
                f"a logit at position {session.position - 1} is NaN or +inf, or none of "
                "a row is finite: no token can be drawn of it. Flax's Embed gives NaN for "
                "a token that it does not have. The caches keep what they were given: "
                "begin another session."
            )
        new = np.asarray(drawn)
        if end is not None:
            new = np.where(over, np.int32(end), new)
            over |= new == end
        found.append(new)
        if over.all():
            break
        # What is sent has the dtype of the prompt: another one would be another program.
        if new.max() > jnp.iinfo(given.dtype).max or new.min() < 0:
            raise ValueError(
                f"`tokens` are {given.dtype}, and a token after them does not fit into "
                "it: give them as int32."
            )
        given = jnp.asarray(new[:, None], given.dtype)
    return np.stack(found, 1)


def _checked_draw(
    key: jax.Array | None, temperature: float, top_k: int | None
) -> int | None:
    """How many tokens are drawn of, if it is said well how they are drawn."""
    # Not a number, or a text, is not greater than 0 either.
    real = isinstance(temperature, int | float | np.number | jax.Array)
    # Logits that are divided by less overflow, and the first of those would be drawn.
    if not (real and np.ndim(temperature) == 0 and _COLDEST <= temperature < np.inf):
        raise ValueError(
            f"`temperature` must be positive, from {_COLDEST:g} on, got "
            f"{shown(temperature)}; without a `key` each token is the most likely."
        )
    chosen = [n for n, x in (("temperature", temperature != 1), ("top_k", top_k)) if x]
    if key is None and chosen:
        # Else who forgets the key would get the most likely tokens for drawn ones.
        raise ValueError(
            f"`{chosen[0]}` is of tokens that are drawn: give a `key`, as "
            "jax.random.key(0)."
        )
    return None if top_k is None else as_positive_int("top_k", top_k)


def _checked_key(key: jax.Array, batch: int) -> jax.Array:
    """A typed key, or one for each sequence."""
    if not (hasattr(key, "dtype") and (is_key(key) or key.dtype == np.uint32)):
        raise ValueError(
            "`key` must be a PRNG key, as jax.random.key(0), got "
            f"{getattr(key, 'dtype', type(key).__name__)}."
        )
    found = typed_key(key)
    if found.shape not in ((), (batch,)):
        raise ValueError(
            f"`key` must be one key, or [{batch}] of them, got {[*found.shape]}."
        )
    return found


def _checked_prompt(session: SessionLike, tokens: ArrayLike, steps: int) -> jax.Array:
    """The prompt, if the session is one of tokens and has room for all."""
    if len(session.fields) != 1:
        raise ValueError(
            f"`session` must be of one field of tokens, it has {list(session.fields)}; "
            "draw of the logits that it gives."
        )
    given = jnp.asarray(tokens)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"`tokens` must be integers, got {given.dtype}.")
    if given.ndim != 2:
        raise ValueError(f"`tokens` must be [batch, positions], got {[*given.shape]}.")
    # NumPy and JAX take -1 for the last token of all: a filler would be one that was said.
    if (given < 0).any():
        raise ValueError(
            "`tokens` must not be negative. Nothing fills a prompt: those of unequal "
            "lengths go in sessions of their own."
        )
    # Now, and not when half of the tokens are there. The last is not given back.
    there = session.position + given.shape[1] + steps - 1
    if there > session.length:
        raise ValueError(
            f"`steps` is {steps}: with them the session would have {there} positions, and "
            f"its `length` is {session.length}."
        )
    return given


@partial(jax.jit, static_argnames="top_k")
def _pick(
    logits: jax.Array,
    key: jax.Array | None,
    position: int,
    temperature: float,
    top_k: int | None,
) -> tuple[jax.Array, jax.Array]:
    """A token of each row of logits, int32 [batch]; and whether all rows have one."""
    sound = jnp.isfinite(logits.max(-1)).all() & ~jnp.isnan(logits).any()
    if key is None:
        return logits.argmax(-1).astype(jnp.int32), sound
    logits = logits.astype(jnp.float32) / temperature
    if top_k is not None:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)

    def drawn(key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, position), logits)

    # One after the other: keys that are mapped draw other numbers in some kinds.
    by_row = lambda each: drawn(*each)  # noqa: E731
    found = jax.lax.map(by_row, (key, logits)) if key.ndim else drawn(key, logits)
    return found.astype(jnp.int32), sound
