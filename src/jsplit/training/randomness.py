"""What is drawn in a step or a call, from which key: that which all agreed on, or a secret one.

Dropout and the rounding of links are functions of (key, step), which all parties
know. A link with `secret=True` draws of its sender's own key, which nobody else has.
"""

from __future__ import annotations

from zlib import crc32

import jax

from jsplit.core.base import Link, PyTree
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name, Wire

# No number of a step, which is an int32: no call of inference draws what a step drew.
_INFERENCE = 2**32 - 1


def rng_names(config: Config, party: str) -> list[Name]:
    """What randomness is a function of: the key, the step and, with several, the micro-batch."""
    several = [Name(party, Kind.MICRO)] if config.microbatches > 1 else []
    return [Name(party, Kind.KEY), Name(party, Kind.STEP), *several]


def step_key(key: jax.Array, step: jax.Array, *micro: jax.Array) -> jax.Array:
    """The key of one step, on which all parties agree: `fold_in(key, step)`.

    With several micro-batches each folds in its number once more.
    """
    key = jax.random.fold_in(key, step)
    return jax.random.fold_in(key, micro[0]) if micro else key


def link_key_names(config: Config, wire: Wire, link: Link, train: bool) -> list[Name]:
    """What the key of a link is a function of.

    Args:
        config: of the training.
        wire: the message.
        link: which encodes it.
        train: whether this is a step, or a call of inference.
    """
    public = rng_names(config, wire.sender)
    if not link.secret:
        return public
    secret = Name(wire.sender, Kind.SECRET)
    # A call of inference has no number: what tells it from others comes from outside.
    return [secret, *(public[1:] if train else [Name(wire.sender, Kind.NOISE)])]


def link_key(wire: Wire, link: Link, train: bool, *given: PyTree) -> jax.Array:
    """The key that a link draws from.

    Args:
        wire: the message, whose name is folded in: each draws for itself.
        link: which encodes it.
        train: whether this is a step.
        *given: what lies at `link_key_names`.

    Returns:
        The key; [clients] of them where the secret is of so many clients.
    """
    number = crc32("/".join(wire).encode())
    if not link.secret:
        return jax.random.fold_in(step_key(*given), number)
    key, *rest = given
    if not train:
        [words] = rest
        rest = [_INFERENCE, *(words[i] for i in range(words.shape[0]))]
    for n in (*rest, number):
        # Clients that step together have a secret each, along an axis.
        fold = jax.vmap(jax.random.fold_in, (0, None)) if key.ndim else None
        key = fold(key, n) if fold else jax.random.fold_in(key, n)
    return key
