"""Secret keys: what one party draws of, and nobody else can compute.

They come from the operating system and from no seed, so no run repeats
another's by chance. Each lies in its own party's state and checkpoint alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.federation import Federation
from jsplit.core.keys import is_key
from jsplit.core.typed_jax import (
    asarray,
    eval_shape,
    is_traced,
    key_data,
    wrap_key_data,
    zeros,
)

# Always this one, whatever JAX's default is: the same bits on every device, and
# under `vmap` those of each by itself, which `rbg` does not give.
_IMPL = "threefry2x32"

_Held = TypeVar("_Held", TrainState, Federation)


def drawn(count: int | None = None) -> jax.Array:
    """A secret key from the system, or [count] of them."""
    shape = (2,) if count is None else (count, 2)
    words = np.frombuffer(secrets.token_bytes(4 * int(np.prod(shape))), np.uint32)
    return wrap_key_data(asarray(words.reshape(shape)), impl=_IMPL)


def shape_of_secret() -> jax.ShapeDtypeStruct:
    """The shape and dtype of a secret key."""
    return jax.ShapeDtypeStruct((), eval_shape(_zero).dtype)


def _zero() -> jax.Array:
    return wrap_key_data(zeros(2, np.uint32), impl=_IMPL)


def fresh_words() -> np.ndarray:
    """A number of the system's for one call, 128 bits as uint32 [4]."""
    return np.frombuffer(secrets.token_bytes(16), np.uint32)


def is_in_a_trace(*given: PyTree) -> bool:
    """Whether this runs within a program that is being traced, or is given a part of one.

    What the system draws there would be a constant of the program.
    """
    # Within `jit` and `scan` whatever is made is traced, also of what is no argument.
    return any(map(is_traced, (zeros(()), *jax.tree.leaves(given))))


def words_of_call(noise: PyTree, senders: tuple[str, ...], *given: PyTree) -> PyTree:
    """What tells a call of inference from all others, uint32 [words].

    Args:
        noise: a key that the caller gives, typed or as its words; `None`: 128 bits
            of the system's.
        senders: the parties that draw secret noise in inference.
        given: what the call is given, to see whether it is traced.

    Returns:
        The words; `None` where nobody draws.

    Raises:
        ValueError: if `noise` is no key, or is missing where the call is traced.
    """
    if noise is not None:
        words = key_data(noise) if hasattr(noise, "dtype") and is_key(noise) else noise
        if np.ndim(words) != 1 or getattr(words, "dtype", None) != np.uint32:
            kind = f"{getattr(noise, 'dtype', type(noise).__name__)}"
            raise ValueError(
                "`noise` must be one PRNG key, as jax.random.key(0), got "
                f"{kind}{list(np.shape(noise))}."
            )
        return words if senders else None
    if not senders:
        return None
    if is_in_a_trace(*given):
        raise ValueError(
            f"`noise` must be given within jit, vmap or scan: `{senders[0]}` sends "
            "through a link that draws secret noise, which would be the same in every "
            "call of this program. Give it a key that the program is given, as "
            "`noise=key`."
        )
    return fresh_words()


def numbered(words: PyTree, number: int) -> PyTree:
    """The words of one batch of a call, by its number."""
    if words is None:
        return None
    # Of the system's own by NumPy: nothing is compiled for it.
    last = np.array([number], np.uint32)
    if isinstance(words, jax.Array):
        return jnp.concatenate([words, asarray(last)])
    return np.concatenate([words, last])


def with_secrets(state: _Held, secrets: Mapping[str, jax.Array]) -> _Held:
    """Give parties secret keys of one's own, in the place of those from the system.

    For tests, and for research that must be repeatable. A key that others know
    or can guess protects nothing: whoever has it takes the noise off again.

    Args:
        state: of a trainer, or of an algorithm over rounds.
        secrets: by party, a key; of an algorithm one for each client,
            [clients].

    Returns:
        The state with these keys; parties that are not named keep theirs.

    Raises:
        ValueError: if there is no such party or it draws no secret noise, a key
            is none or of another shape, or two would be the same.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> own = jsplit.PartyState(
        ...     {}, {}, (), {}, jax.random.key(0), jnp.int32(0), jax.random.key(3)
        ... )
        >>> state = jsplit.TrainState({"hospital": own})
        >>> state = jsplit.with_secrets(state, {"hospital": jax.random.key(7)})
        >>> bool(state.parties["hospital"].secret == jax.random.key(7))
        True
        >>> "hidden" in repr(state)
        True
    """
    _check_given(state, secrets)
    parties = dict(state.parties)
    for party, key in secrets.items():
        own = parties.get(party)
        if own is None or own.secret is None:
            there = [p for p, x in parties.items() if x.secret is not None]
            raise ValueError(
                f"`secrets` names `{party}`, which draws no secret noise; there are "
                f"{', '.join(there) or 'none'}."
            )
        parties[party] = own._replace(secret=_checked(party, key, own.secret))
    _check_apart(parties)
    return state._replace(parties=parties)


def _check_given(state: object, secrets: object) -> None:
    """Refuse what is no state, and what has no keys by party."""
    if not isinstance(state, (TrainState, Federation)):
        raise ValueError(
            "`state` must be that of a trainer, a TrainState, or that of an algorithm "
            f"over rounds, a Federation, got a {type(state).__name__}."
        )
    if not isinstance(secrets, Mapping):
        raise ValueError(
            f"`secrets` must be keys by party, got {type(secrets).__name__}."
        )


def _checked(party: str, key: object, old: jax.Array) -> jax.Array:
    """A key that is given, if it has the form of the one in its place."""
    wanted = f"{old.dtype}{list(old.shape)}"
    form = (getattr(key, "dtype", None), getattr(key, "shape", None))
    if not isinstance(key, jax.Array) or form != (old.dtype, old.shape):
        kind = (
            f"{form[0]}{list(form[1])}" if form[1] is not None else type(key).__name__
        )
        # Never the key itself.
        raise ValueError(
            f"`secrets` of `{party}` must be {wanted}, as jax.random.key(7, "
            f'impl="{_IMPL}"), got {kind}.'
        )
    return key


def _check_apart(parties: Mapping[str, PartyState]) -> None:
    """Refuse secrets of which two are the same, or one is the key that all know."""
    held = [
        x
        for own in parties.values()
        for x in (own.secret, own.key)
        if own.secret is not None
    ]
    if any(map(is_traced, held)):
        return
    words: list[bytes] = []
    for own in parties.values():
        if own.secret is not None:
            rows = np.asarray(key_data(own.secret)).reshape(-1, 2)
            words += [rows[i].tobytes() for i in range(len(rows))]
    if len({*words}) < len(words):
        raise ValueError("`secrets` must all differ, got two that are the same.")
    for party, own in parties.items():
        public = np.asarray(key_data(own.key)).tobytes()
        if own.secret is not None and public in words:
            raise ValueError(
                f"`secrets` must not have the key that all parties know, that of `{party}`."
            )
