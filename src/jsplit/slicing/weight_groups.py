"""Several entries of a file that are one leaf, one after the other, as q, k and v of a qkv.

`names` says them by a tuple of entries. They become one entry, so that whatever looks at
an entry and its leaf looks at these as at any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import numpy as np

from jsplit.slicing.weight_files import Entry
from jsplit.slicing.weight_names import (
    Names,
    Pattern,
    Target,
    by_pattern,
    compiled,
    filled_target,
)

_Entries = Mapping[str, Entry]


def with_groups(
    names: Names | None, entries: _Entries
) -> tuple[Names | None, _Entries]:
    """Names and entries in which each group is one entry.

    Args:
        names: as the user gave it.
        entries: of the files.

    Returns:
        The same two, without tuples of entries.

    Raises:
        ValueError: if some entries of a group are lacking or are named elsewhere too, or
            they do not fit one after the other.
    """
    if not isinstance(names, Mapping):
        return names, entries
    groups = {key: names[key] for key in names if isinstance(key, tuple)}
    if not groups:
        return names, entries
    plain = {key: names[key] for key in names if not isinstance(key, tuple)}
    named, left = by_pattern(plain), dict(entries)
    targets: dict[str, Target] = {}
    for patterns, target in groups.items():
        for places, members in _members(patterns, entries).items():
            for name in members:
                if left.pop(name, None) is None or named(name):
                    raise ValueError(f"`names`: the entry `{name}` is meant twice.")
            own = filled_target(" + ".join(patterns), target, dict(places))
            if own is None:
                continue
            parts = [entries[name] for name in members]
            entry, own = _joined(parts, own)
            left[entry.name], targets[entry.name] = entry, own

    def target_of(entry: str) -> Target:
        return targets[entry] if entry in targets else named(entry)

    return target_of, left


def _members(
    patterns: Sequence[Pattern], entries: _Entries
) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """The entries of each group, by what is in the places of its patterns."""
    found: dict[tuple[tuple[str, str], ...], dict[Pattern, str]] = {}
    for pattern in patterns:
        regex = compiled(pattern)
        for name in entries:
            if match := regex.fullmatch(name):
                places = tuple(sorted(match.groupdict().items()))
                found.setdefault(places, {})[pattern] = name
    for own in found.values():
        lacking = [p for p in patterns if p not in own]
        if lacking:
            there = next(iter(own.values()))
            raise ValueError(
                f"`names`: beside the entry `{there}` there is none of `{lacking[0]}`, "
                "which is one leaf with it."
            )
    return {places: [own[p] for p in patterns] for places, own in found.items()}


def _joined(parts: Sequence[Entry], target: Target) -> tuple[Entry, Target]:
    """One entry of several, and where it goes."""
    name = " + ".join(x.name for x in parts)
    dtype = one_dtype(parts)
    change = target[1] if isinstance(target, tuple) else None
    if callable(change):
        # It is given all of them, of whatever shapes: they travel as one vector.
        size = sum(int(np.prod(x.shape, dtype=np.int64)) for x in parts)

        def vector() -> np.ndarray:
            return np.concatenate([x.read().ravel() for x in parts])

        run = cast("Callable[..., jax.Array]", change)
        apart = _apart([x.shape for x in parts], run)
        target = (cast("tuple[str, object]", target)[0], apart)
        return Entry(parts[0].file, name, (size,), dtype, vector), target
    first = parts[0].shape
    if not first or any(x.shape[1:] != first[1:] or not x.shape for x in parts):
        said = ", ".join(f"`{x.name}` {list(x.shape)}" for x in parts)
        raise ValueError(
            "`names`: entries that are one leaf follow each other along their first axis, "
            f"and the others must be the same, got {said}; a function of all of them joins "
            "them otherwise."
        )
    shape = (sum(x.shape[0] for x in parts), *first[1:])

    def read() -> np.ndarray:
        return np.concatenate([x.read() for x in parts])

    return Entry(parts[0].file, name, shape, dtype, read), target


def _apart(
    shapes: Sequence[tuple[int, ...]], change: Callable[..., jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """A function of a vector of several arrays, of a function of these."""
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    ends = [0, *np.cumsum(sizes).tolist()]

    def changed(x: jax.Array) -> jax.Array:
        rows = zip(shapes, ends[:-1], ends[1:], strict=True)
        return change(*[x[a:b].reshape(shape) for shape, a, b in rows])

    return changed


def one_dtype(parts: Sequence[Entry]) -> np.dtype:
    """The dtype of entries that become one leaf.

    Raises:
        ValueError: if they have several.
    """
    for x in parts:
        if x.dtype != parts[0].dtype:
            raise ValueError(
                f"`names`: `{parts[0].name}` is {parts[0].dtype} and `{x.name}` "
                f"{x.dtype}, and both are of one leaf."
            )
    return parts[0].dtype
