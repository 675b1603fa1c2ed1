"""Whether files of weights fit a model: a leaf that is lacking, left over, of another form.

Nothing is read for it but names, shapes and dtypes, and each error lists the paths.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.checks import shown
from jsplit.core.trees import describe
from jsplit.segments.trainable import matches
from jsplit.slicing.weight_files import Entry
from jsplit.slicing.weight_names import Aim, changed, listed

_SHOWN = 6  # leaves that do not fit, in an error


class Leaf(NamedTuple):
    """A leaf of a segment.

    Attributes:
        path: with dots.
        like: its shape and dtype.
        is_known: whether the model has a value of it, or only the shape.
        source: the entry of a file that fills it, and what becomes of that; `None`: it
            stays as the model has it.
    """

    path: str
    like: jax.ShapeDtypeStruct
    is_known: bool
    source: tuple[Entry, Aim] | None = None


def check_keep(
    leaves: Sequence[Leaf], patterns: Sequence[str], kept: Collection[str]
) -> None:
    """Refuse a `keep` that means nothing, or what has no value.

    Args:
        leaves: of the segments.
        patterns: of `keep`, those that must mean a leaf.
        kept: the paths of the leaves that they mean.
    """
    for p in patterns:
        if not any(matches(path, p) for path in kept):
            raise ValueError(f"`keep` has {shown(p)}, and no segment such a leaf.")
    empty = [x.path for x in leaves if x.path in kept and not x.is_known]
    if empty:
        raise ValueError(
            f"`keep` has {listed(empty)}, of which the model has only the shape."
        )


def check_left_over(
    sources: Mapping[str, tuple[Entry, Aim]], leaves: Sequence[Leaf]
) -> None:
    """Refuse entries for leaves that no segment has."""
    over = sources.keys() - {x.path for x in leaves}
    if over:
        said = [
            f"{entry.name}` -> `{path}"
            for path, (entry, _) in sources.items()
            if path in over
        ]
        raise ValueError(
            f"no segment has a leaf for the entries {listed(said)}; what the model does "
            "not have is said by `None` in `names`, and what others have by `partial=True`."
        )


def check_fit(
    leaves: Sequence[Leaf],
    sources: Mapping[str, tuple[Entry, Aim]],
    kept: Collection[str],
    cast: bool,
) -> None:
    """Refuse leaves without an entry, and entries that do not fit their leaves."""
    lacking = [x.path for x in leaves if x.path not in sources and x.path not in kept]
    if lacking:
        raise ValueError(
            f"no entry of the files is the leaf {listed(lacking)}; a leaf that stays as "
            "the model has it is said by `keep`, another name by `names`."
        )
    wrong = [
        f"`{x.path}` is {describe(x.like)}, but {why}"
        for x in leaves
        if x.path in sources and (why := _misfit(x, *sources[x.path], cast))
    ]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError("; ".join(wrong[:_SHOWN]) + more + ".")


def _misfit(leaf: Leaf, entry: Entry, aim: Aim, cast: bool) -> str:
    """Why an entry does not fit its leaf; empty if it does."""
    like = leaf.like
    both = (
        jnp.issubdtype(like.dtype, jnp.floating),
        jnp.issubdtype(entry.dtype, jnp.floating),
    )
    if entry.dtype != like.dtype and not (cast and all(both)):
        remedy = ", which `cast=True` converts" if all(both) else ""
        return f"`{entry.name}` is {entry.dtype}{remedy}"
    there = jax.ShapeDtypeStruct(entry.shape, like.dtype)
    made = changed(aim, entry.name, there)
    if isinstance(made, str):
        return made
    is_turned = len(entry.shape) == 2 and entry.shape[::-1] == like.shape
    if (made.shape, made.dtype) != (like.shape, like.dtype):
        remedy = ", which the axes (1, 0) in `names` would turn" if is_turned else ""
        return f"`{entry.name}` is {describe(made)}{remedy}"
    # PyTorch's and Flax's matrices are each other's transposed. Where both have one
    # shape nothing would show that they were taken for one another.
    named = entry.name.endswith("weight") and aim.path.endswith("kernel")
    if named and is_turned and aim.change is None:
        return (
            f"`{entry.name}` is square: `names` must say in which order of axes, (1, 0) if "
            "it is [out, in], (0, 1) if it stays as it is"
        )
    return ""
