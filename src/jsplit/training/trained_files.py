"""Checkpoints of what is trained alone: the frozen rest is in them as a hash.

With adapters on a large base a checkpoint is then as small as the adapters. The base comes
from where it came from before, and another one is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from jsplit.core.base import TrainState
from jsplit.core.checkpoint import restore, save
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation
from jsplit.core.trainer import Trainer
from jsplit.training.base_hash import hashed, on_base
from jsplit.training.config import Config
from jsplit.training.store import Layout, layout_of

_Held = TypeVar("_Held", TrainState, Federation)


def save_trained(
    folder: str | os.PathLike[str], state: _Held, trainer: Trainer
) -> list[Path]:
    """Write what is trained of every party's state to `<folder>/<party>.npz`.

    As `save` does, but for frozen parameters, and state that no step changes: of these a
    hash is written. Where nothing is frozen the files are those of `save`.
    `restore_trained` is the inverse.

    Args:
        folder: where the files go.
        state: of `trainer`, or of an algorithm over rounds of it.
        trainer: it knows what is frozen.

    Returns:
        The files written.

    Raises:
        ValueError: if `trainer` is none, or the state is used up.
        OSError: if a file cannot be written; an older one is then as it was.

    Example:
        >>> import tempfile, jax.numpy as jnp, jsplit, optax
        >>> low = jsplit.segment(
        ...     lambda p, x: x @ p["base"] @ p["lora"],
        ...     init=lambda key, x: {"base": jnp.ones((3, 9)), "lora": jnp.ones((9, 1))},
        ...     inputs=["x"],
        ...     trainable="lora",
        ... )
        >>> high = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> batch = {"x": jnp.ones((2, 3)), "label": jnp.ones(2)}
        >>> state = trainer.init(0, batch)
        >>> new, _ = trainer.step(state, batch)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = jsplit.save_trained(folder, new, trainer)
        ...     again = jsplit.restore_trained(folder, state, trainer)
        >>> params = again.parties["client"].params["smashed"]
        >>> bool((params["lora"] == new.parties["client"].params["smashed"]["lora"]).all())
        True
    """
    refuse_used_up(state)
    return save(folder, _hashed(_layout(trainer), state))


def restore_trained(
    folder: str | os.PathLike[str], like: _Held, trainer: Trainer
) -> _Held:
    """Read the state that `save_trained` wrote, on the frozen parameters of `like`.

    Args:
        folder: where the files are.
        like: a state of the same shapes and dtypes, with the same frozen parameters, as
            from `trainer.init`.
        trainer: it knows what is frozen.

    Returns:
        A state of the type and structure of `like`; its frozen arrays are those of
        `like` themselves.

    Raises:
        ValueError: if a file was trained on other frozen parameters, and whatever
            `restore` refuses.

    Example:
        >>> import jsplit
        >>> jsplit.restore_trained("nowhere", None, None)
        Traceback (most recent call last):
            ...
        ValueError: `trainer` must be a Trainer or an Algorithm, got a NoneType.
    """
    layout = _layout(trainer)
    refuse_used_up(like)
    wanted = _hashed(layout, like)
    found = restore(folder, wanted)
    parties = dict(found.parties)
    for party, at in layout.items():
        if party not in parties:
            continue
        where = f"the checkpoint of `{party}` in {folder}"
        mine = like.parties[party], wanted.parties[party]
        parties[party] = on_base(at, parties[party], *mine, where)
    return found._replace(parties=parties)


def _layout(trainer: object) -> Layout:
    config = getattr(trainer, "config", None)
    if not isinstance(config, Config):
        raise ValueError(
            "`trainer` must be a Trainer or an Algorithm, got a "
            f"{type(trainer).__name__}."
        )
    return layout_of(config)


def _hashed(layout: Layout, state: _Held) -> _Held:
    """The state with a hash in the place of what is frozen of a node."""
    parties = dict(state.parties)
    for party, at in layout.items():
        if party in parties:
            parties[party] = hashed(at, parties[party])
    return state._replace(parties=parties)
