"""The frozen part of a state as a hash: what is trained is kept beside it, on whose base.

In the place of the parameters of a node lie `{"trained": ..., "frozen": hash}`. So what is
trained on one base is never put on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import jax
import numpy as np

from jsplit.core.base import PartyState, PyTree
from jsplit.core.frozen import divided, joined
from jsplit.core.keys import is_key
from jsplit.core.paths import arrays_by_path
from jsplit.training.kinds import Kind
from jsplit.training.store import Frozen, PartyLayout
from jsplit.training.walk import Name


class OtherBase(ValueError):
    """What is trained was trained on other frozen parameters."""


def replaced(
    at: PartyLayout, own: PartyState, fn: Callable[[Name, Frozen, PyTree], PyTree]
) -> PartyState:
    """A state with `fn(name, frozen, tree)` in the place of each tree that is frozen in part.

    Args:
        at: layout of the party.
        own: its state.
        fn: of where the tree lies, what of it is frozen, and the tree.
    """
    parts = {"params": dict(own.params), "state": dict(own.state)}
    for name, frozen in at.frozen.items():
        held = parts["params" if name.kind == Kind.PARAMS else "state"]
        held[name.what] = fn(name, frozen, held[name.what])
    return own._replace(**parts)


def hashed(at: PartyLayout, own: PartyState) -> PartyState:
    """A state with a hash in the place of what is frozen of each node; `on_base` undoes it."""

    def one(_: Name, frozen: Frozen, tree: PyTree) -> PyTree:
        trained, rest = divided(frozen.changes, tree)
        return {"trained": trained, "frozen": hash_of(rest)}

    return replaced(at, own, one)


def on_base(
    at: PartyLayout, own: PartyState, like: PartyState, wanted: PartyState, where: str
) -> PartyState:
    """What is trained of one state, on the frozen parameters of another.

    Args:
        at: layout of the party.
        own: as `hashed` gives it.
        like: which has the frozen parameters.
        wanted: `hashed` of it.
        where: what `own` is, for the error.

    Raises:
        OtherBase: if they have not the hash that is in `own`.
    """

    def one(name: Name, frozen: Frozen, tree: PyTree) -> PyTree:
        part = "params" if name.kind == Kind.PARAMS else "state"
        mine = getattr(wanted, part)[name.what]["frozen"]
        if not np.array_equal(tree["frozen"], mine):
            what = "parameters" if part == "params" else "state"
            raise OtherBase(
                f"{where} was trained on other frozen {what} of the node `{name.what}`."
            )
        rest = divided(frozen.changes, getattr(like, part)[name.what])[1]
        return joined(tree["trained"], rest)

    return replaced(at, own, one)


def hash_of(tree: PyTree) -> jax.Array:
    """The SHA-256 of arrays, with their paths, dtypes and shapes; uint8 [32]."""
    found = hashlib.sha256()
    for path, x in arrays_by_path(tree).items():
        data = np.asarray(jax.random.key_data(x) if is_key(x) else x)
        found.update(f"{path} {data.dtype} {data.shape}\n".encode())
        # As bytes: a bfloat16 has no buffer that Python knows.
        found.update(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
    return jax.numpy.asarray(np.frombuffer(found.digest(), np.uint8))
