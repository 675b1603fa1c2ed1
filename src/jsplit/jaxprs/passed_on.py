"""Which results of a program are its arguments as they came: handed on, and never changed.

By the program's structure, whatever the numbers are: through calls, branches and loops, and
through axes that are moved and moved back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from jsplit.jaxprs.flat import bodies, flatten, shape_of
from jsplit.jaxprs.macs import carried

# What hands on its arguments as they are, one by one.
_HANDS_ON = {
    "copy",
    "copy_p",
    "device_put",
    "name",
    "optimization_barrier",
    "sharding_constraint",
}


class _Moved(NamedTuple):
    """An argument, with its axes in some order.

    Attributes:
        argument: its number.
        axes: which of its axes stand where; in order, it is the argument itself.
    """

    argument: int
    axes: tuple[int, ...]

    @property
    def as_it_came(self) -> bool:
        return self.axes == (*range(len(self.axes)),)


def passed_on(closed: ClosedJaxpr) -> list[int | None]:
    """By result of a program, the number of the argument that it is.

    Args:
        closed: the program, as `jax.make_jaxpr` gives it.

    Returns:
        `None` for a result that is none of the arguments, or not provably one.
    """
    found = _of_program(closed)
    return [x.argument if x and x.as_it_came else None for x in found]


def _of_program(closed: ClosedJaxpr) -> list[_Moved | None]:
    flat = flatten(closed, calls=True)
    known: dict[Var, _Moved] = {}
    for i, v in enumerate(flat.invars):
        known[v] = _Moved(i, (*range(len(shape_of(v).shape)),))
    for equation in flat.equations:
        eqn = equation.eqn
        given = [known.get(v) if isinstance(v, Var) else None for v in eqn.invars]
        if any(given):
            pairs = zip(eqn.outvars, _results(eqn, given), strict=False)
            known.update((v, x) for v, x in pairs if x is not None)
    return [known.get(v) if isinstance(v, Var) else None for v in flat.outvars]


def _results(eqn: JaxprEqn, given: Sequence[_Moved | None]) -> Sequence[_Moved | None]:
    """What the results of one equation are."""
    name = eqn.primitive.name
    if name in _HANDS_ON:
        return given
    if name == "transpose":
        x = given[0]
        order = eqn.params["permutation"]
        return [x and _Moved(x.argument, tuple(x.axes[i] for i in order))]
    if name == "scan":
        body = next(bodies(eqn))
        first, last = carried(eqn, body)
        return _of_turns(body, given, first, last)
    if name == "while":
        body = eqn.params["body_jaxpr"].jaxpr
        # Before them are constants, of the condition too.
        count = len(eqn.outvars)
        constants = len(body.invars) - count
        own = [*[None] * constants, *given[-count:]]
        return _of_turns(body, own, constants, len(body.invars))
    if name == "cond":
        # The first tells which branch is taken.
        branches = [_of_body(body, given[1:]) for body in bodies(eqn)]
        rows = zip(*branches, strict=True)
        return [row[0] if len({*row}) == 1 else None for row in rows]
    return [None] * len(eqn.outvars)


def _of_turns(
    body: Jaxpr, given: Sequence[_Moved | None], first: int, last: int
) -> list[_Moved | None]:
    """The same of a loop, whose inputs from `first` to `last` go from turn to turn."""
    found: list[_Moved | None] = []
    for i, x in enumerate(_of_program(_closed(body))):
        at = x.argument if x and x.as_it_came else -1
        # What goes from turn to turn must be itself again; the others are of each turn,
        # and their results are put together as the inputs were taken apart.
        is_itself = at == first + i if first + i < last else at >= last
        found.append(given[at] if is_itself else None)
    return found


def _of_body(body: Jaxpr, given: Sequence[_Moved | None]) -> list[_Moved | None]:
    """The same of a body that runs once."""
    found: list[_Moved | None] = []
    for x in _of_program(_closed(body)):
        outer = given[x.argument] if x else None
        if x is None or outer is None:
            found.append(None)
        else:
            found.append(_Moved(outer.argument, tuple(outer.axes[i] for i in x.axes)))
    return found


def _closed(body: Jaxpr) -> ClosedJaxpr:
    """A body by itself, whose constants are nothing that is asked for."""
    return ClosedJaxpr(body, [0] * len(body.constvars))
