"""Checkpoints of what is trained alone: the frozen rest is in them as a hash.

With adapters on a large base a checkpoint is then as small as the adapters. The base comes
from where it came from before, and another one is refused.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checkpoint import restore, save
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation
from jsplit.core.frozen import divided, joined
from jsplit.core.keys import is_key
from jsplit.core.paths import arrays_by_path
from jsplit.core.trainer import Trainer
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
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
        own = parties[party]
        parts = {"params": dict(own.params), "state": dict(own.state)}
        for name, (_, changes) in at.frozen.items():
            part = _part(name.kind)
            held = parts[part][name.what]
            mine = getattr(wanted.parties[party], part)[name.what]
            if not np.array_equal(held["frozen"], mine["frozen"]):
                what = "parameters" if part == "params" else "state"
                raise ValueError(
                    f"the checkpoint of `{party}` in {folder} was trained on other frozen "
                    f"{what} of the node `{name.what}` than those of `like`."
                )
            frozen = divided(changes, getattr(like.parties[party], part)[name.what])[1]
            parts[part][name.what] = joined(held["trained"], frozen)
        parties[party] = own._replace(**parts)
    return found._replace(parties=parties)


def _layout(trainer: object) -> Layout:
    config = getattr(trainer, "config", None)
    if not isinstance(config, Config):
        raise ValueError(
            "`trainer` must be a Trainer or an Algorithm, got a "
            f"{type(trainer).__name__}."
        )
    return layout_of(config)


def _part(kind: Kind) -> str:
    return "params" if kind == Kind.PARAMS else "state"


def _hashed(layout: Layout, state: _Held) -> _Held:
    """The state with a hash in the place of what is frozen of a node."""
    parties: dict[str, PartyState] = dict(state.parties)
    for party, at in layout.items():
        if party not in parties:
            continue
        own = parties[party]
        parts = {"params": dict(own.params), "state": dict(own.state)}
        for name, (_, changes) in at.frozen.items():
            held = parts[_part(name.kind)]
            trained, frozen = divided(changes, held[name.what])
            held[name.what] = {"trained": trained, "frozen": hash_of(frozen)}
        parties[party] = own._replace(**parts)
    return state._replace(parties=parties)


def hash_of(tree: PyTree) -> jax.Array:
    """The SHA-256 of arrays, with their paths, dtypes and shapes; uint8 [32]."""
    found = hashlib.sha256()
    for path, x in arrays_by_path(tree).items():
        data = np.asarray(jax.random.key_data(x) if is_key(x) else x)
        found.update(f"{path} {data.dtype} {data.shape}\n".encode())
        # As bytes: a bfloat16 has no buffer that Python knows.
        found.update(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
    return jax.numpy.asarray(np.frombuffer(found.digest(), np.uint8))
