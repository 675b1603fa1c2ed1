"""A model's call from the leaves of its trees, and the leaves of what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jsplit.core.base import Params, PyTree, SegmentApply, State
from jsplit.core.paths import Leaves, by_path


def apply_leaves(
    apply: SegmentApply,
    trees: tuple[Leaves, Leaves],
    leaves: tuple[Sequence[jax.Array], Sequence[jax.Array]],
    key: jax.Array,
    fields: Sequence[PyTree],
    train: bool,
) -> tuple[PyTree, list[jax.Array]]:
    """What a model returns, and the leaves of its new state in the order of the old ones.

    Args:
        apply: the model.
        trees: paths and structures of its parameters and of its state.
        leaves: of both.
        key: of the call.
        fields: its inputs.
        train: the mode.
    """
    given: tuple[Params, State] = (
        trees[0].structure.unflatten(leaves[0]),
        trees[1].structure.unflatten(leaves[1]),
    )
    output, new = apply(*given, key, *fields, train=train)
    after = by_path(new)
    found = dict(zip(after.paths, after.shapes, strict=True))
    # In inference a model may return less than it has: what lacks is as it was.
    pairs = zip(trees[1].paths, leaves[1], strict=True)
    return output, [found.get(path, old) for path, old in pairs]
