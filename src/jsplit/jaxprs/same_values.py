"""Which variables of a program have the same value: the same function of the same values.

Found from the first equation on, by what each does and reads (value numbering, Cocke and
Schwartz, Programming Languages and Their Compilers, 1970, ch. 5). JAX traces
`tokens > 0` twice where it is written twice.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable

import numpy as np
from jax.extend.core import DropVar, JaxprEqn, Literal, Var

from jsplit.jaxprs.flat import Flat, shape_of


def same_values(flat: Flat, apart: Collection[Var]) -> dict[Var, Var]:
    """By variable, the first one that has its value, where that is another.

    Args:
        flat: the program.
        apart: variables that are themselves, though they may be others by another name.
    """
    first: dict[Var, Var] = {}
    known: dict[Hashable, list[Var]] = {}
    for equation in flat.equations:
        eqn, writes = equation.eqn, equation.writes
        if not writes or any(v in apart for v in writes):
            continue
        if eqn.primitive.name == "name" and equation.reads:
            read = equation.reads[0]
            first[writes[0]] = first.get(read, read)
            continue
        key = _key(eqn, first)
        # What has no hash, as a parameter that is an array, is like no other.
        if key is None:
            continue
        before = known.setdefault(key, list(eqn.outvars))
        for v, same in zip(eqn.outvars, before, strict=True):
            dropped = isinstance(v, DropVar) or isinstance(same, DropVar)
            if v is not same and not dropped:
                first[v] = same
    return first


def _key(eqn: JaxprEqn, first: dict[Var, Var]) -> Hashable | None:
    """What two equations have in common that compute the same."""
    # An effect happens as often as it is written.
    if eqn.effects:
        return None
    reads: list[Hashable] = []
    for v in eqn.invars:
        if isinstance(v, Literal):
            shape = shape_of(v)
            reads.append((np.asarray(v.val).tobytes(), shape.shape, shape.dtype))
        else:
            reads.append(first.get(v, v))
    key = (eqn.primitive.name, *reads, *sorted(eqn.params.items(), key=lambda p: p[0]))
    try:
        hash(key)
    except TypeError:
        return None
    return key
