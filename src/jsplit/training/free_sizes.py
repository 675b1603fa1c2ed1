"""Shapes of fields with sizes that are free: of the batch, and of axes that a user names.

They are symbols of `jax.export`, one for each name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
from jax import export as jax_export

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line, shown

BATCH = "batch"
"""What the size of the batch is called."""


def with_free_sizes(
    shapes: Mapping[str, PyTree],
    free: Mapping[str, Sequence[str | None]],
    constraints: Sequence[str] = (),
) -> dict[str, PyTree]:
    """The shapes of fields, with symbols in the place of sizes.

    Args:
        shapes: by field, [batch, ...].
        free: by field, the names of its axes after the batch; `None`, and no name:
            its size stays.
        constraints: what holds of free sizes.

    Returns:
        The shapes by field; equal names have one symbol.

    Raises:
        ValueError: naming the field, or the constraints.
    """
    for field, names in free.items():
        _check(field, names, shapes)
    found = {n: None for names in free.values() for n in names if n is not None}
    # In one call: symbols of two cannot be compared, and sizes of two values that a
    # segment reads must be known equal.
    words = ", ".join([BATCH, *found])
    given = [constraints] if isinstance(constraints, str) else constraints
    try:
        symbols = jax_export.symbolic_shape(words, constraints=given)
    except ValueError as error:
        raise ValueError(
            f"`constraints` of {words} are not as `jax.export.symbolic_shape` takes them: "
            f"{first_line(error)}"
        ) from error
    size = dict(zip([BATCH, *found], symbols, strict=True))

    def freed(x: jax.ShapeDtypeStruct, names: Sequence[str | None]):
        sizes = [size[BATCH], *x.shape[1:]]
        for axis, name in enumerate(names, 1):
            if name is not None:
                sizes[axis] = size[name]
        return jax.ShapeDtypeStruct(tuple(sizes), x.dtype)

    return {
        field: jax.tree.map(lambda x, field=field: freed(x, free.get(field, ())), tree)
        for field, tree in shapes.items()
    }


def _check(
    field: str, names: Sequence[str | None], shapes: Mapping[str, PyTree]
) -> None:
    """Refuse names of axes that there are not."""
    if field not in shapes:
        raise ValueError(
            f"`free` names the field `{field}`, which no segment reads; they read "
            f"{', '.join(shapes)}."
        )
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(
            f"`free` of `{field}` must be a list of names of its axes after the batch, "
            f"got {shown(names)}."
        )
    for name in names:
        word = isinstance(name, str) and name.isidentifier() and name != BATCH
        if name is not None and not word:
            raise ValueError(
                f"`free` of `{field}`: an axis is named by a word other than "
                f"`{BATCH}`, or `None`, got {shown(name)}."
            )
    for x in jax.tree.leaves(shapes[field]):
        if len(names) >= len(x.shape):
            raise ValueError(
                f"`free` of `{field}` names {len(names)} axes after the batch, and it has "
                f"{len(x.shape) - 1}."
            )
