"""Which values have a batch axis, and which have a leading axis that is as long by chance.

Eight heads are as many as the eight examples that a model is traced with, and one is the
length of many an axis. So the program is compared with that of another batch size.
"""

from __future__ import annotations

from jax.extend.core import Var

from jsplit.jaxprs.flat import Flat, shape_of


def steady(flat: Flat, other: Flat) -> frozenset[Var]:
    """The variables whose leading axis does not grow with the batch.

    Args:
        flat: the program.
        other: the same at another batch size.

    Returns:
        Variables of `flat`; none if the programs are not the same, step for step.
    """
    pairs = [*zip(flat.equations, other.equations, strict=False)]
    names = [(a.eqn.primitive, b.eqn.primitive) for a, b in pairs]
    alike = len(flat.equations) == len(other.equations)
    if not alike or any(a is not b for a, b in names):
        return frozenset()
    found: set[Var] = set()
    for a, b in pairs:
        for v, w in zip(a.eqn.outvars, b.eqn.outvars, strict=True):
            if shape_of(v).shape[:1] == shape_of(w).shape[:1]:
                found.add(v)
    return frozenset(found)
