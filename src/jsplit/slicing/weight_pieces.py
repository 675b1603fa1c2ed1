"""Entries of files that are whole stacks of layers, for segments that have some of them.

The file holds the stack, as the model has it; each party keeps its own layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from jsplit.core.pieces import Piece, are_whole, by_whole, rows_of
from jsplit.slicing.weight_files import Entry
from jsplit.slicing.weight_names import Aim

_Sources = Mapping[str, tuple[Entry, Aim]]


def in_pieces_of(sources: _Sources, paths: Iterable[str], partial: bool) -> _Sources:
    """What fills each leaf, where a leaf is some layers of a stack.

    Args:
        sources: by the path of a whole leaf.
        paths: of the leaves of the segments.
        partial: whether others may have the other layers.

    Returns:
        The same by the paths of the segments; a stack of which layers have no segment
        stays, so that it is left over.
    """
    found = {**sources}
    for (whole,), own in by_whole([(path,) for path in paths]).items():
        if whole not in sources:
            continue
        found |= {path: _rows(sources[whole], path, p) for p, (path,) in own.items()}
        if partial or are_whole(own, whole):
            del found[whole]
    return found


def _rows(source: tuple[Entry, Aim], path: str, piece: Piece) -> tuple[Entry, Aim]:
    entry, aim = source
    # Of entries of single layers those of the piece, and no others are read.
    if aim.layers is not None and aim.layers.axis == piece.axis:
        return aim.layers.piece(piece, path)

    def change(x: jax.Array) -> jax.Array:
        if isinstance(aim.change, tuple):
            x = jnp.transpose(x, aim.change)
        elif aim.change is not None:
            x = aim.change(x)
        return rows_of(x, piece)

    return entry, Aim(path, change)
