"""Entries of files that are one layer each, for leaves that are stacks of layers.

`names` says which row of a leaf an entry is: `"blocks.w[3]"`, or along another axis
`"blocks.w[:, 3]"`. A party that has some layers reads the entries of these alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.pieces import Piece
from jsplit.slicing.weight_files import Entry
from jsplit.slicing.weight_groups import one_dtype
from jsplit.slicing.weight_names import Aim, Change

_ROW = re.compile(r"(.+)\[((?::\s*,\s*)*)(\d+)\]")

Source = tuple[Entry, Aim]
"""What fills a leaf."""


class Layers(NamedTuple):
    """Entries of single layers, in order, and the axis along which a leaf has them."""

    rows: tuple[Source, ...]
    axis: int

    def source(self, path: str) -> Source:
        """One entry of all layers, and where it goes."""
        entries = [entry for entry, _ in self.rows]
        first = entries[0]
        for x in entries:
            if x.shape != first.shape:
                raise ValueError(
                    f"`names`: `{first.name}` is {list(first.shape)} and `{x.name}` "
                    f"{list(x.shape)}, and both are layers of `{path}`."
                )

        def read() -> np.ndarray:
            return np.stack([x.read() for x in entries])

        last = f" to {entries[-1].name}" if len(entries) > 1 else ""
        shape = (len(entries), *first.shape)
        entry = Entry(first.file, first.name + last, shape, one_dtype(entries), read)
        change = _of_each(self.rows[0][1].change, len(first.shape), self.axis)
        return entry, Aim(path, change, self)

    def piece(self, piece: Piece, path: str) -> Source:
        """The same of some layers."""
        if len(self.rows) != piece.length:
            raise ValueError(
                f"the files have {len(self.rows)} layers of `{path}`, and the model has "
                f"{piece.length}."
            )
        own = self._replace(rows=self.rows[piece.start : piece.stop])
        return own.source(path)


def with_stacks(sources: Mapping[str, Source]) -> dict[str, Source]:
    """What fills each leaf, where several entries are rows of one.

    Args:
        sources: by path, which may say a row.

    Returns:
        The same by the paths of leaves.

    Raises:
        ValueError: if a row is lacking, or rows differ in shape or dtype, or a leaf is
            filled as a whole too.
    """
    found: dict[str, Source] = {}
    stacks: dict[str, dict[int, Source]] = {}
    axes: dict[str, int] = {}
    for path, source in sources.items():
        match = _ROW.fullmatch(path)
        if match is None:
            found[path] = source
            continue
        leaf, axis, row = match[1], match[2].count(":"), int(match[3])
        if axes.setdefault(leaf, axis) != axis or row in stacks.get(leaf, {}):
            raise ValueError(f"`names` has two meanings of the row {row} of `{leaf}`.")
        stacks.setdefault(leaf, {})[row] = source
    for leaf, rows in stacks.items():
        lacking = [n for n in range(max(rows) + 1) if n not in rows]
        if lacking:
            raise ValueError(
                f"`names`: no entry of the files is the row {lacking[0]} of `{leaf}`, "
                f"which has one for {max(rows)}."
            )
        if leaf in found:
            raise ValueError(
                f"`names`: `{found[leaf][0].name}` is the leaf `{leaf}`, and "
                f"`{rows[0][0].name}` a row of it."
            )
        ordered = tuple(rows[n] for n in range(len(rows)))
        found[leaf] = Layers(ordered, axes[leaf]).source(leaf)
    return found


def _of_each(
    change: Change | None, ndim: int, axis: int
) -> tuple[int, ...] | Callable[[jax.Array], jax.Array] | None:
    """A change of each row as one of rows along the first axis, which come to `axis`."""
    if callable(change):

        def changed(x: jax.Array) -> jax.Array:
            # One by one: it may be of a kind that does not run over a batch.
            return jnp.stack([change(row) for row in x], axis)

        return changed
    order: Sequence[int] = range(ndim) if change is None else change
    axes = [n + 1 for n in order]
    axes.insert(axis, 0)
    return None if axes == [*range(ndim + 1)] else tuple(axes)
