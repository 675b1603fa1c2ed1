"""Parameters in two parts: those that are trained, and the frozen rest.

In each part there is `None` in the place of the other's leaves, so that both keep the
containers of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache

import jax

from jsplit.core.base import PyTree, Segment
from jsplit.core.paths import Path, by_path
from jsplit.core.typed_jax import TreeDef, tree_structure, tree_unflatten


@dataclass(frozen=True)
class AtPaths:
    """The parameters at some paths; a `trains` of a `Segment`.

    Attributes:
        paths: of the leaves.
    """

    paths: frozenset[Path]

    def __call__(self, path: Path, /) -> bool:
        return path in self.paths


NOTHING = AtPaths(frozenset())
"""What is trained of a segment that is wholly frozen."""


def divided(trains: Callable[[Path], bool], params: PyTree) -> tuple[PyTree, PyTree]:
    """The trained and the frozen part of parameters; `joined` is the inverse.

    Args:
        trains: which leaves are trained, by path.
        params: of a segment.

    Returns:
        Two trees in the containers of `params`.
    """
    leaves: list[PyTree] = jax.tree.leaves(params)
    structure = tree_structure(params)
    mask = _mask(trains, structure)
    pairs = list(zip(leaves, mask, strict=True))
    trained = [x if of else None for x, of in pairs]
    frozen = [None if of else x for x, of in pairs]
    return tree_unflatten(structure, trained), tree_unflatten(structure, frozen)


# In every step: paths are made once for each structure. By paths alone, so the arrays of
# many clients, with an axis more, divide as those of one.
@lru_cache(maxsize=1024)
def _mask(trains: Callable[[Path], bool], structure: TreeDef) -> tuple[bool, ...]:
    numbered = tree_unflatten(structure, list(range(structure.num_leaves)))
    return tuple(bool(trains(path)) for path in by_path(numbered).paths)


def joined(trained: PyTree, frozen: PyTree) -> PyTree:
    """Parameters from their two parts; the inverse of `divided`."""

    def chosen(one: PyTree, other: PyTree) -> PyTree:
        return other if one is None else one

    # `None` is a leaf for once: else the two would be trees of different structures.
    return jax.tree.map(chosen, trained, frozen, is_leaf=lambda x: x is None)


def trained_part(segment: Segment, params: PyTree) -> PyTree:
    """The part of a segment's parameters that is trained, integers among it."""
    return params if segment.trains is None else divided(segment.trains, params)[0]


@dataclass(frozen=True)
class Within:
    """What several segments train, whose parameters lie side by side, by name.

    Attributes:
        by_name: of each segment, its `trains`.
    """

    by_name: tuple[tuple[Hashable, Callable[[Path], bool] | None], ...]

    def __call__(self, path: Path, /) -> bool:
        trains = dict(self.by_name)[path[0]]
        # A tree that is one array has the path that `by_path` gives it.
        return trains is None or trains(path[1:] or ("value",))
