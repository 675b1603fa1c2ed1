"""Trees by the paths of their leaves: what is inside what, and trees laid over others.

Slices of one model hold its leaves at the paths that these have in the
whole, as nested dictionaries. What works on pytrees without asking for
paths is in `core/trees.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeGuard
from urllib.parse import quote

import jax

from jsplit.core.arrays import leaf_of_state
from jsplit.core.base import PyTree
from jsplit.core.typed_jax import (
    KeyEntry,
    TreeDef,
    keystr,
    leaves_with_path,
    tree_structure,
)

Path = tuple[Hashable, ...]
Nested = Mapping[Hashable, PyTree]

# Keys are quoted in a path but for these, which are no trouble in an
# archive's names.
_UNQUOTED = " .#~:+-"


class Leaves(NamedTuple):
    """A pytree by the paths of its leaves; `nest` makes nested dictionaries of them.

    Attributes:
        paths: of each leaf, whatever the containers around it were.
        shapes: the leaves themselves, or their shapes, in the same order.
        structure: of the pytree, to put leaves back into its own
            containers.
    """

    paths: list[Path]
    shapes: list[PyTree]
    structure: TreeDef


def by_path(tree: PyTree) -> Leaves:
    """Take a pytree apart into leaves and the paths to them."""
    paths: list[Path] = []
    leaves: list[PyTree] = []
    for entries, leaf in leaves_with_path(tree):
        path = tuple(_key_of(entry) for entry in entries)
        # A tree that is one array has no path, and a dictionary needs a
        # name for it.
        paths.append(path or ("value",))
        leaves.append(leaf)
    return Leaves(paths, leaves, tree_structure(tree))


def _key_of(entry: KeyEntry) -> Hashable:
    """What a container calls one of its elements: a key, a number or a name."""
    # Each of JAX's classes of entries calls it otherwise, and containers
    # that are registered elsewhere bring classes of their own.
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return entry


def arrays_by_path(state: PyTree) -> dict[str, jax.Array]:
    """The arrays of a pytree by the paths to them, written with slashes."""

    def quoted(entry: KeyEntry) -> str:
        # A slash within a key is quoted, so that no two paths are written
        # alike.
        return quote(keystr((entry,), simple=True), safe=_UNQUOTED)

    found: dict[str, jax.Array] = {}
    for path, x in leaves_with_path(state):
        at = "/".join(quoted(entry) for entry in path)
        found[at] = leaf_of_state(at, x)
    return found


def nest(paths: Sequence[Path], leaves: Sequence[PyTree]) -> dict[Hashable, PyTree]:
    """Put leaves into nested dictionaries by their paths; `by_path` is the inverse."""
    tree: dict[Hashable, PyTree] = {}
    for path, leaf in zip(paths, leaves, strict=True):
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = leaf
    return tree


def dotted(path: Path) -> str:
    """A path as users write it: `encoder.conv.kernel`."""
    return ".".join(map(str, path))


def is_nested(x: PyTree) -> TypeGuard[Nested]:
    """Whether `x` is nested dictionaries, and not a leaf."""
    return isinstance(x, Mapping)


def remove(tree: Nested, paths: Collection[Path]) -> dict[Hashable, PyTree]:
    """Nested dictionaries without what lies at any of `paths`."""
    kept: dict[Hashable, PyTree] = {}
    for key, value in tree.items():
        below = [path[1:] for path in paths if path[:1] == (key,)]
        if () in below:
            continue  # one of the paths ends here

        if below and is_nested(value):
            value = remove(value, below)
            # An empty dictionary is another structure than none: a
            # collection whose entries are all gone must be gone too.
            if not value:
                continue
        kept[key] = value
    return kept


def keep(tree: Nested, other: Nested, *, inside: bool) -> dict[Hashable, PyTree]:
    """The part of nested dictionaries that another tree has, or lacks.

    Args:
        tree: what is divided.
        other: only its keys are looked at.
        inside: `True` keeps the paths that are in `other`, `False` those
            that are not.

    Returns:
        That part of `tree`.
    """
    kept: dict[Hashable, PyTree] = {}
    for key, value in tree.items():
        against = other.get(key)
        if is_nested(value) and is_nested(against):
            part = keep(value, against, inside=inside)
            # As in `remove`: no empty dictionary stays where nothing was
            # kept.
            if part:
                kept[key] = part
        elif (key in other) == inside:
            kept[key] = value
    return kept


def overlay(*trees: Nested) -> dict[Hashable, PyTree]:
    """Nested dictionaries laid over one another; the last that holds a leaf counts."""
    merged: dict[Hashable, PyTree] = {}
    for tree in trees:
        for key, value in tree.items():
            under = merged.get(key)
            # A new dictionary, never one changed in place: it would be the
            # caller's.
            if is_nested(value) and is_nested(under):
                value = overlay(under, value)
            merged[key] = value
    return merged
