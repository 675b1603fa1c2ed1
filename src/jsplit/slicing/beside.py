"""One program beside that of the same model at other sizes: which value is which.

Equations are paired in order. At a batch of one, or a symbolic length, JAX writes a
broadcast more or less; what lies between is skipped, and has no pair.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend.core import Var

from jsplit.jaxprs.flat import Equation, Flat, shape_of

_Step = tuple[object, ...]

_AHEAD = 8
"""How many equations are skipped at most; more is another program."""

_AGREE = 3
"""How many equations in a row must be alike after some were skipped."""


def beside(flat: Flat, other: Flat) -> dict[Var, Var]:
    """By variable that an equation writes, the one in its place in another program.

    Args:
        flat: the program.
        other: the same model's at other sizes.

    Returns:
        Variables of `other` by those of `flat`, as far as the programs are alike.
    """
    mine, theirs = ([_step(e) for e in x.equations] for x in (flat, other))
    found: dict[Var, Var] = {}
    i = j = 0
    while i < len(mine) and j < len(theirs):
        if mine[i] != theirs[j]:
            skipped = _skipped(mine, theirs, i, j)
            if skipped is None:
                break
            i, j = i + skipped[0], j + skipped[1]
        a, b = flat.equations[i].eqn, other.equations[j].eqn
        found.update(zip(a.outvars, b.outvars, strict=True))
        i, j = i + 1, j + 1
    return found


def _step(e: Equation) -> _Step:
    """What an equation does, whatever the sizes: its primitive, dtypes and ranks."""
    shapes = (shape_of(v) for v in e.eqn.outvars)
    return (e.eqn.primitive.name, *((x.dtype, len(x.shape)) for x in shapes))


def _skipped(
    mine: Sequence[_Step], theirs: Sequence[_Step], i: int, j: int
) -> tuple[int, int] | None:
    """The fewest equations to skip of each, so that both go on alike."""
    ways = [(a, b) for a in range(_AHEAD) for b in range(_AHEAD)]
    for a, b in sorted(ways, key=sum)[1:]:
        after = mine[i + a : i + a + _AGREE]
        if after and after == theirs[j + b : j + b + _AGREE]:
            return a, b
    return None
