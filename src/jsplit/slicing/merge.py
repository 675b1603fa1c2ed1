"""From the trees of several segments of `jsplit.split` back to those of the whole model.

Segments own disjoint leaves of the whole, each at the path that it has there, so nothing is lost and nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jsplit.core.base import Params, PyTree, State, TrainState
from jsplit.core.paths import by_path, dotted, overlay


def variables(state: TrainState) -> tuple[Params, State]:
    """The parameters and the statistics (BatchNorm's and the like) of the whole model, from the state of a trainer.

    The whole model with both computes in inference mode what `trainer.predict` computes. For linen it is
    `model.apply({"params": params, **statistics}, x)`; for nnx, `nnx.update(module, params)` and
    `nnx.update(module, statistics)`, then `module.eval()`.

    Args:
        state: of a trainer whose segments `split` made; where its own containers matter, see `merge`.

    Returns:
        Two nested dictionaries, `(params, statistics)`.

    Raises:
        ValueError: if two segments hold the same leaf, as those of several models may.
    """
    if not isinstance(state, TrainState):
        raise ValueError(
            f"`state` must be that of a trainer, a TrainState, got a {type(state).__name__}."
        )
    parties = state.parties.values()
    return merge(*(x for p in parties for x in p.params.values())), merge(
        *(x for p in parties for x in p.state.values())
    )


def merge(*trees: Mapping, like: PyTree = None) -> PyTree:
    """The parameters (or statistics) of several segments as those of the whole model, copied, so that they outlive a step.

    Args:
        trees: nested dictionaries by path, as `split` makes them.
        like: a tree in the whole model's own containers, such as `segment(model).init(key, *example)[0]`, where these
            are not nested dictionaries: linen's boxes of partitioned parameters, lists, named tuples. The result has them.

    Returns:
        One nested dictionary, or a tree like `like`.

    Raises:
        ValueError: if two trees hold the same leaf, or `like` has other leaves.
    """
    merged: dict = {}
    for tree in trees:
        if not isinstance(tree, Mapping):
            raise ValueError(
                f"`merge` takes nested dictionaries, as segments of `split` have, got a {type(tree).__name__}."
            )
        for path in by_path(tree).paths:
            ours = merged
            for k in path:
                ours = ours.get(k) if isinstance(ours, Mapping) else ...
                if ours is None:
                    break
            if ours is not None:
                raise ValueError(f"two of the trees hold the leaf `{dotted(path)}`.")
        merged = overlay(merged, tree)
    merged = jax.tree.map(lambda x: x.copy() if isinstance(x, jax.Array) else x, merged)
    if like is None:
        return merged
    found, wanted = by_path(merged), by_path(like)
    values = dict(zip(found.paths, found.shapes, strict=True))
    if odd := [
        path
        for path in (*wanted.paths, *found.paths)
        if path not in values or path not in wanted.paths
    ]:
        raise ValueError(
            f"the leaf `{dotted(odd[0])}` is in {'the trees' if odd[0] in values else '`like`'} alone."
        )
    return wanted.structure.unflatten([values[path] for path in wanted.paths])
