"""What of an optimizer's state starts anew in a client's turn, and what goes on.

Moments start anew, and with them all that stands beside them in the same
record: Adam's count corrects the bias of its moments, so it belongs to
them. What stands in a record without moments goes on from round to round: the
count of a schedule, a learning rate that was set by hand.
"""

from __future__ import annotations

from collections.abc import Collection

import jax
import optax

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import KeyEntry, keystr, leaves_with_path
from jsplit.training.whole_paths import without_pieces

_Path = tuple[KeyEntry, ...]


def starts_anew(
    optimizer: optax.GradientTransformation, params: PyTree, whose: str
) -> list[bool]:
    """Return of each leaf of an optimizer's state whether it starts anew.

    A leaf is of a moment if it lies at the path of a parameter, or if its
    shape follows those of the parameters.

    Args:
        optimizer: whose state it is.
        params: what it is over, or their shapes.
        whose: the party, for the error.

    Returns:
        One for each leaf, in the order of the leaves.

    Raises:
        ValueError: if a number could as well belong to moments as to a
            schedule, naming it.
    """
    params = without_pieces(params)
    own = {path for path, _ in leaves_with_path(params)}
    paths = [path for path, _ in leaves_with_path(_state(optimizer, params))]
    homes: set[_Path] = set()
    doubtful: set[_Path] = set()
    for path, follows in zip(
        paths, _follow(optimizer, params, len(paths)), strict=True
    ):
        field = _field(path, own)
        # A whole path that ends as a parameter's does; one that only has a
        # parameter's name on its way may be a schedule's, under a label.
        ends = len(field) < len(path) and path[len(field) :] in own
        if not (ends or follows):
            continue
        homes.add(field[:-1])
        # A tuple or dictionary of moments may be a whole state, or one field of
        # a record whose other fields count for it.
        while field and not isinstance(field[-1], jax.tree_util.GetAttrKey):
            field = field[:-1]
            doubtful.add(field[:-1])
    _refuse_doubtful(paths, homes, doubtful, whose)
    return [_field(path, own)[:-1] in homes or path[:-1] in homes for path in paths]


def going_on(memory: PyTree, anew: list[bool]) -> list[jax.Array]:
    """Return the leaves of an optimizer's state that do not start anew."""
    leaves = jax.tree.leaves(memory)
    return [x for x, new in zip(leaves, anew, strict=True) if not new]


def restarted(first: PyTree, kept: list[jax.Array], anew: list[bool]) -> PyTree:
    """Return a first state in which what goes on is as `going_on` gave it."""
    leaves, structure = jax.tree.flatten(first)
    rest = iter(kept)
    return structure.unflatten(
        [x if new else next(rest) for x, new in zip(leaves, anew, strict=True)]
    )


def _state(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """Return the shapes of the optimizer's first state."""
    return jax.eval_shape(optimizer.init, params)


def _follow(
    optimizer: optax.GradientTransformation, params: PyTree, count: int
) -> list[bool]:
    """Return of each leaf of the state whether its shape follows those of the parameters."""

    def other(x: jax.Array) -> jax.ShapeDtypeStruct:
        # As many axes where there are any: which parameters an optimizer takes
        # may depend on that.
        return jax.ShapeDtypeStruct(tuple(n + 1 for n in x.shape) or (2,), x.dtype)

    try:
        larger = jax.tree.leaves(_state(optimizer, jax.tree.map(other, params)))
    # One that knows the shapes of its parameters by itself; then their paths
    # alone say what is a moment.
    except Exception:
        return [False] * count
    if len(larger) != count:
        return [False] * count
    given = jax.tree.leaves(_state(optimizer, params))
    return [x.shape != y.shape for x, y in zip(given, larger, strict=True)]


def _field(path: _Path, own: Collection[_Path]) -> _Path:
    """Return where the field of a leaf lies: the path up to a parameter's, if one is on it."""
    for start in range(len(path) - 1, -1, -1):
        for end in range(len(path), start, -1):
            if path[start:end] in own:
                return path[:start]
    return path


def _refuse_doubtful(
    paths: list[_Path],
    homes: Collection[_Path],
    doubtful: Collection[_Path],
    whose: str,
) -> None:
    for path in paths:
        if path[:-1] in doubtful and path[:-1] not in homes:
            raise ValueError(
                f'`moments="fresh"` cannot tell whether `{keystr(path)}` in the '
                f"optimizer state of `{whose}` belongs to the moments near it: put "
                "what belongs together into one NamedTuple, or take `moments` "
                '"averaged" or "own".'
            )
