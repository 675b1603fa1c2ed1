"""Trees by the paths of their leaves: what is inside what, and trees that are laid over others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jsplit.core.base import PyTree

Path = tuple


class Leaves(NamedTuple):
    """A pytree by the paths of its leaves: whatever its containers were, `nest` makes it nested dicts."""

    paths: list[Path]
    shapes: list[Any]
    structure: Any


def by_path(tree: PyTree) -> Leaves:
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = [
        tuple(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path)
        for path, _ in pairs
    ]
    return Leaves(
        [path or ("value",) for path in paths], [leaf for _, leaf in pairs], structure
    )


def nest(paths: Sequence[Path], leaves: Sequence[Any]) -> dict:
    tree: dict = {}
    for path, leaf in zip(paths, leaves, strict=True):
        inner = tree
        for k in path[:-1]:
            inner = inner.setdefault(k, {})
        inner[path[-1]] = leaf
    return tree


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


def remove(tree: Mapping, paths: Collection[Path]) -> dict:
    """Nested dicts without what lies at any of `paths`."""
    kept = {}
    for k, v in tree.items():
        below = [path[1:] for path in paths if path[:1] == (k,)]
        if below and () not in below and isinstance(v, Mapping):
            v = remove(v, below)
            below = [] if v else [()]
        if () not in below:
            kept[k] = v
    return kept


def keep(tree: Mapping, other: Mapping, *, inside: bool) -> dict:
    """The part of nested dicts `tree` whose paths are (`inside`) or are not in `other`."""
    kept = {}
    for k, v in tree.items():
        if isinstance(v, Mapping) and isinstance(other.get(k), Mapping):
            if sub := keep(v, other[k], inside=inside):
                kept[k] = sub
        elif (k in other) == inside:
            kept[k] = v
    return kept


def overlay(*trees: Mapping) -> dict:
    """Nested dicts laid over one another; where two hold the same leaf, the last one counts."""
    merged: dict = {}
    for tree in trees:
        for k, v in tree.items():
            both = isinstance(v, Mapping) and isinstance(merged.get(k), Mapping)
            merged[k] = overlay(merged[k], v) if both else v
    return merged
