"""From the trees of several segments of `jsplit.split` back to those of the whole model.

Segments own disjoint leaves of the whole, each at the path that it has
there, so nothing is lost and nothing counts twice. Only of a frozen weight
several may have a copy. Layers of one stack that several segments have are one array again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import jax

from jsplit.core.arrays import is_copy
from jsplit.core.base import Params, PyTree, State, TrainState
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation, one_model
from jsplit.core.paths import Nested, Path, by_path, dotted, overlay
from jsplit.core.pieces import assembled


def variables(
    state: TrainState | Federation, client: int | str | None = None
) -> tuple[Params, State]:
    """Put the parameters and the statistics of the whole model together again.

    The whole model with both computes in inference mode what
    `trainer.predict` computes. For linen it is `model.apply({"params":
    params, **statistics}, x)`; for nnx, `nnx.update(module, params)` and
    `nnx.update(module, statistics)`, then `module.eval()`. `load_variables`
    is the inverse.

    Args:
        state: of a trainer whose segments `split` made, or of an algorithm
            over rounds; where the model's own containers matter, see
            `merge`.
        client: whose model, by number from 0 or by name; needed only where
            clients have weights or statistics of their own.

    Returns:
        Two nested dictionaries, `(params, statistics)`.

    Raises:
        ValueError: if two segments hold the same leaf with other numbers, as
            those of several models do, or a client is needed and missing.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def own(params):
        ...     key = jax.random.key(0)
        ...     return jsplit.PartyState(params, {}, (), {}, key, jnp.int32(0))
        >>> client = own({"h": {"stem": {"weight": jnp.ones(3)}}})
        >>> server = own({"output": {"head": {"weight": jnp.ones(2)}}})
        >>> state = jsplit.TrainState({"client": client, "server": server})
        >>> params, statistics = jsplit.variables(state)
        >>> sorted(params), statistics
        (['head', 'stem'], {})
    """
    state = one_model(state, client)
    params: list[Params] = []
    statistics: list[State] = []
    for party in state.parties.values():
        params += party.params.values()
        statistics += party.state.values()
    return merge(*params), merge(*statistics)


def merge(*trees: Params, like: PyTree = None) -> PyTree:
    """Put the parameters (or statistics) of several segments together again.

    Args:
        *trees: nested dictionaries by path, as `split` makes them.
        like: a tree in the whole model's own containers, such as
            `segment(model).init(key, *example)[0]`, where these are not
            nested dictionaries: linen's boxes of partitioned parameters,
            lists, named tuples. The result has them.

    Returns:
        One nested dictionary, or a tree like `like`; its arrays are copies,
        so that they outlive a step. Layers of one stack are one array, where
        the trees have them all.

    Raises:
        ValueError: if two trees hold the same leaf with other numbers, or the same
            layers of one, `like` has other leaves, or a step has used up an array.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> stem = {"stem": {"weight": jnp.ones(3)}}
        >>> head = {"head": {"weight": jnp.ones(2)}}
        >>> jax.tree.map(jnp.shape, jsplit.merge(stem, head))
        {'head': {'weight': (2,)}, 'stem': {'weight': (3,)}}
    """
    refuse_used_up(trees)
    merged: dict[Hashable, PyTree] = {}
    for tree in trees:
        if not isinstance(tree, Mapping):
            kind = type(tree).__name__
            raise ValueError(
                "`merge` takes nested dictionaries, as segments of `split` have, got a "
                f"{kind}."
            )
        found = by_path(tree)
        for path, leaf in zip(found.paths, found.shapes, strict=True):
            # Copies of a frozen weight stay the same.
            if _holds(merged, path) and not is_copy(_at(merged, path), leaf):
                raise ValueError(
                    f"two of the trees hold the leaf `{dotted(path)}`, with other "
                    "numbers."
                )
        merged = overlay(merged, tree)

    # A step may use up its state: what was not copied would be gone with it.
    copied = jax.tree.map(_copy, assembled(merged))
    return copied if like is None else _in_containers(copied, like)


def _copy(x: PyTree) -> PyTree:
    return x.copy() if isinstance(x, jax.Array) else x


def _holds(tree: Nested, path: Path) -> bool:
    """Whether a tree has a leaf at a path, or on the way to it."""
    inner: PyTree = tree
    for key in path:
        # A leaf on the way: one of the two trees has an array where the
        # other goes on.
        if not isinstance(inner, Mapping):
            return True
        inner = inner.get(key)
        if inner is None:
            return False
    return True


def _at(tree: Nested, path: Path) -> PyTree:
    """What lies at a path; `None` where a leaf is on the way to it."""
    inner: PyTree = tree
    for key in path:
        if not isinstance(inner, Mapping):
            return None
        inner = inner[key]
    return inner


def _in_containers(merged: PyTree, like: PyTree) -> PyTree:
    """The leaves of nested dictionaries in the containers of `like`."""
    found, wanted = by_path(merged), by_path(like)
    values = dict(zip(found.paths, found.shapes, strict=True))
    for path in (*wanted.paths, *found.paths):
        if path not in values or path not in wanted.paths:
            where = "the trees" if path in values else "`like`"
            raise ValueError(f"the leaf `{dotted(path)}` is in {where} alone.")
    return wanted.structure.unflatten([values[path] for path in wanted.paths])
