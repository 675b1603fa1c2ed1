"""Which values have a batch axis, and which have a leading axis that is as long by chance.

Eight heads are as many as the eight examples that a model is traced with, and one is the
length of many an axis. So the program is compared with that of another batch size.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import Flat, shape_of


def steady(flat: Flat, other: Flat) -> frozenset[Var]:
    """The variables whose leading axis does not grow with the batch.

    Args:
        flat: the program.
        other: the same at another batch size.

    Returns:
        Variables of `flat`; none if the programs are not the same, step for step.
    """
    found: set[Var] = set()
    for v, w in _pairs(flat, other):
        if shape_of(v).shape[:1] == shape_of(w).shape[:1]:
            found.add(v)
    return frozenset(found)


def beyond_batch(fields: Sequence[PyTree]) -> list[tuple[int, ...]]:
    """The sizes of the inputs of a model but for the first, which is the batch."""
    return [x.shape[1:] for x in jax.tree.leaves(fields)]


def shapes_in(flat: Flat, other: Flat) -> dict[Var, tuple[int, ...]]:
    """The shapes that the variables of a program have in the same one at other sizes.

    Args:
        flat: the program.
        other: the same at the sizes that are asked for.

    Returns:
        By variable of `flat`; none if the programs are not the same, step for step.
    """
    return {v: shape_of(w).shape for v, w in _pairs(flat, other)}


def _pairs(flat: Flat, other: Flat) -> list[tuple[Var, Var]]:
    """What each step of two programs writes, if they are the same, step for step."""
    pairs = [*zip(flat.equations, other.equations, strict=False)]
    names = [(a.eqn.primitive, b.eqn.primitive) for a, b in pairs]
    alike = len(flat.equations) == len(other.equations)
    if not alike or any(a is not b for a, b in names):
        return []
    return [
        (v, w)
        for a, b in pairs
        for v, w in zip(a.eqn.outvars, b.eqn.outvars, strict=True)
    ]
