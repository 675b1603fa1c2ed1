"""Pieces of one array along an axis, as the layers of a stack that several parties have.

A piece lies where the array would, one level deeper, under a key that says which it is:
`{"kernel": {"0:2 of 4": ...}}`. So pieces find their places whoever holds them, and what
is lacking shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.paths import Nested, Path, is_nested
from jsplit.core.pytrees import PyTree
from jsplit.core.typed_jax import asarray, device_put, is_traced

_KEY = re.compile(r"(\d+):(\d+) of (\d+)(?: at axis (\d+))?")
_Value = TypeVar("_Value")


class Piece(NamedTuple):
    """Which part of an array a piece is.

    Attributes:
        start: the first row.
        stop: the row after the last.
        length: how many rows the whole array has.
        axis: along which they are counted.
    """

    start: int
    stop: int
    length: int
    axis: int = 0

    @property
    def key(self) -> str:
        """The key under which it lies."""
        # No character that is quoted in a checkpoint.
        where = f" at axis {self.axis}" if self.axis else ""
        return f"{self.start}:{self.stop} of {self.length}{where}"


def piece_of(key: Hashable) -> Piece | None:
    """The piece that a key names, if it names one."""
    found = _KEY.fullmatch(key) if isinstance(key, str) else None
    return Piece(*(int(n or 0) for n in found.groups())) if found else None


def of_whole(path: Path) -> Path:
    """The path of the whole array of which a leaf is a piece; else the path itself."""
    return path[:-1] if path and piece_of(path[-1]) else path


@dataclass(frozen=True)
class OfWhole:
    """What is asked of the path of a whole array, asked of a piece.

    Attributes:
        asked: of a path; a `trains` or `moves` of a `Segment`.
    """

    asked: Callable[[Path], bool]

    def __call__(self, path: Path, /) -> bool:
        return self.asked(of_whole(path))


def pieces(bounds: Sequence[int], axis: int) -> list[Piece]:
    """The pieces between bounds, which begin with 0 and end with the length."""
    return [Piece(a, b, bounds[-1], axis) for a, b in pairwise(bounds)]


def are_whole(found: Collection[Piece], where: str) -> bool:
    """Whether pieces make one whole array.

    Args:
        found: the pieces.
        where: its name, for errors.

    Raises:
        ValueError: if two of them hold the same row, or are of other arrays.
    """
    if len({(p.length, p.axis) for p in found}) > 1:
        raise ValueError(
            f"pieces of `{where}` are of arrays of several lengths or axes."
        )
    ends = [0, *sorted({p.stop for p in found})]
    for one, other in pairwise(sorted(found)):
        if other.start < one.stop:
            raise ValueError(f"two of the trees hold row {other.start} of `{where}`.")
    return sorted(found) == pieces(ends, next(iter(found)).axis) and all(
        p.length == ends[-1] for p in found
    )


def rows_of(x: PyTree, piece: Piece) -> PyTree:
    """The rows of a piece of an array, or of its shape.

    Raises:
        ValueError: if the array has more or fewer rows than the piece is of.
    """
    shape = np.shape(x)
    if len(shape) <= piece.axis or shape[piece.axis] != piece.length:
        raise ValueError(
            f"a stack of {piece.length} layers along axis {piece.axis} was expected, got "
            f"an array of shape {list(shape)}."
        )
    if isinstance(x, jax.ShapeDtypeStruct):
        shape = list(x.shape)
        shape[piece.axis] = piece.stop - piece.start
        return jax.ShapeDtypeStruct(tuple(shape), x.dtype)
    if isinstance(x, np.ndarray):
        at = (slice(None),) * piece.axis + (slice(piece.start, piece.stop),)
        return _at(x, at)
    if is_traced(x):
        return jax.lax.slice_in_dim(x, piece.start, piece.stop, axis=piece.axis)
    # Now, and not as a part of a program: that would keep the whole array alive at each
    # party, with the layers of all others.
    with jax.ensure_compile_time_eval():
        return jax.lax.slice_in_dim(
            asarray(x), piece.start, piece.stop, axis=piece.axis
        )


def _at(x: PyTree, at: tuple[slice, ...]) -> PyTree:
    return x[at]


def together(values: Sequence[PyTree], axis: int) -> PyTree:
    """The whole array, or shape, of its pieces in order."""
    first = values[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        shape = list(first.shape)
        shape[axis] = sum(x.shape[axis] for x in values)
        return jax.ShapeDtypeStruct(tuple(shape), first.dtype)
    if isinstance(first, np.ndarray):
        return np.concatenate(values, axis)
    # Parties may lie on devices of their own.
    if isinstance(first, jax.Array) and not is_traced(first):
        values = [device_put(x, first.sharding) for x in values]
    return jnp.concatenate(values, axis)


def assembled(tree: Nested, where: str = "") -> dict[Hashable, PyTree]:
    """Nested dictionaries in which pieces that make a whole array are that array.

    Args:
        tree: of several parties.
        where: the path to it, for errors.

    Returns:
        The tree; pieces of which others are lacking stay as they are.

    Raises:
        ValueError: if two pieces hold the same row.
    """
    found: dict[Hashable, PyTree] = {}
    for key, value in tree.items():
        at = f"{where}.{key}" if where else str(key)
        if is_nested(value):
            own = {p: x for k, x in value.items() if (p := piece_of(k)) is not None}
            if own and len(own) == len(value) and are_whole(own, at):
                value = together([own[p] for p in sorted(own)], next(iter(own)).axis)
            else:
                value = assembled(value, at)
        found[key] = value
    return found


def fitted(
    given: Mapping[tuple[str, ...], _Value],
    wanted: Iterable[tuple[str, ...]],
    join: Callable[[list[_Value], int], _Value],
    take: Callable[[_Value, Piece], _Value],
) -> dict[tuple[str, ...], _Value]:
    """Leaves by their written paths, divided into the pieces that are wanted.

    Args:
        given: by what is said of a leaf, its path last; they may be whole, or pieces.
        wanted: what is wanted, likewise.
        join: makes a whole value of its pieces along an axis.
        take: a piece of a whole value.

    Returns:
        What is given, with what is wanted in other pieces in the form that is wanted.
    """
    wanted = list(wanted)
    found = {**given}
    asked = by_whole(key for key in wanted if key not in given)
    here = by_whole(given)
    for whole, pieces_here in here.items():
        # What is wanted just as it is needs no copy.
        same = all(key in wanted for key in pieces_here.values())
        if not same and are_whole(pieces_here, whole[-1]):
            parts = [found.pop(pieces_here[p]) for p in sorted(pieces_here)]
            found[whole] = join(parts, next(iter(pieces_here)).axis)
    for whole, pieces_wanted in asked.items():
        if whole in found and are_whole(pieces_wanted, whole[-1]):
            value = found.pop(whole)
            found |= {key: take(value, p) for p, key in pieces_wanted.items()}
    return found


def by_whole(
    keys: Iterable[tuple[str, ...]],
) -> dict[tuple[str, ...], dict[Piece, tuple[str, ...]]]:
    """Pieces by the written path of their whole array."""
    found: dict[tuple[str, ...], dict[Piece, tuple[str, ...]]] = {}
    for key in keys:
        # With dots or slashes, as the paths around it are written.
        path, _, last = key[-1].replace("/", ".").rpartition(".")
        piece = piece_of(last)
        if piece is not None:
            whole = (*key[:-1], key[-1][: len(path)])
            found.setdefault(whole, {})[piece] = key
    return found
