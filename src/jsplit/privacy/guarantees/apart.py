"""A program followed equation by equation: whether each record's results are its own.

It is a proof where it says so: every equation computes the entries of a record from that
record's entries, whatever the parameters and the records are. What it cannot follow
counts as mixing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jsplit.privacy.guarantees.axis_rules import RULES, Call, Rows
from jsplit.privacy.guarantees.index_rules import Columns, gathered, scattered


class Mixed(NamedTuple):
    """Entries that may be of several records, since the primitive that is named."""

    by: str


class Of(NamedTuple):
    """What is known of a value.

    Attributes:
        rows: where its records lie; `None`: it is the same whatever the records are.
        value: its numbers, where these are few and known.
        columns: along its last axis, those that are known.
    """

    rows: Rows | Mixed | None = None
    value: np.ndarray | None = None
    columns: Columns = ()


_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_INLINED = {
    *("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
_COUNTED = (
    "iota lt add sub mul rem select_n broadcast_in_dim convert_element_type reshape"
)
_FEW = 1 << 16


def follow(
    program: ClosedJaxpr, rows: Sequence[Rows | None], records: int
) -> list[Rows | Mixed | None]:
    """Where the records lie in each result of a program.

    Args:
        program: as `jax.make_jaxpr` gives it.
        rows: where they lie in each argument.
        records: how many there are, at least 2.

    Returns:
        Of each result their axis, `None` if it depends on no record, or `Mixed`.
    """
    if program.jaxpr.effects:
        # What is written elsewhere may be read again.
        return [Mixed("an effect")] * len(program.jaxpr.outvars)
    return [f.rows for f in _closed(program, [Of(r) for r in rows], records)]


def _closed(body: ClosedJaxpr | Jaxpr, args: Sequence[Of], records: int) -> list[Of]:
    if isinstance(body, ClosedJaxpr):
        return _walk(body.jaxpr, [Of()] * len(body.jaxpr.constvars), args, records)
    return _walk(body, [], args, records)


def _walk(
    jaxpr: Jaxpr, consts: Sequence[Of], args: Sequence[Of], records: int
) -> list[Of]:
    at: dict[Var, Of] = dict(zip(jaxpr.constvars, consts, strict=True))
    at |= dict(zip(jaxpr.invars, args, strict=True))

    def read(v: Var | Literal) -> Of:
        return Of(value=np.asarray(v.val)) if isinstance(v, Literal) else at[v]

    for eqn in jaxpr.eqns:
        found = _equation(eqn, [read(v) for v in eqn.invars], records)
        at |= dict(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: JaxprEqn, args: list[Of], records: int) -> list[Of]:
    name, params, many = eqn.primitive.name, eqn.params, len(eqn.outvars)
    if name in _INLINED:
        body = next(params[b] for b in _BODIES if b in params)
        return _closed(body, args, records)
    if name in _LOOPS:
        return [Of(r) for r in _LOOPS[name](params, args, records)]
    if name == "optimization_barrier":
        return args
    mixed = next((a.rows for a in args if isinstance(a.rows, Mixed)), None)
    if mixed is None and "callback" in name:
        mixed = Mixed(name)
    if mixed is not None:
        return [Of(mixed)] * many
    if all(a.rows is None for a in args):
        return [_counted(eqn, args)] if many == 1 else [Of()] * many
    shapes = [_shape(v) for v in eqn.invars]
    rows = [a.rows for a in args if not isinstance(a.rows, Mixed)]
    call = Call(rows, shapes, _shape(eqn.outvars[0]), params, records)
    if name == "gather":
        place = gathered(call, args[1].columns)
    elif name.startswith("scatter"):
        place = scattered(call, args[1].columns) if len(rows) == 3 else None
    else:
        place = RULES[name](call) if name in RULES else None
    found = Of(Mixed(name) if place is None else place)
    return [found._replace(columns=_columns(eqn, args))] * many


def _shape(v: Var | Literal) -> tuple[int, ...]:
    return tuple(getattr(v.aval, "shape", ()))


def _counted(eqn: JaxprEqn, args: Sequence[Of]) -> Of:
    """Numbers that only the program decides, as `jnp.arange` of the batch."""
    known = [a.value for a in args if a.value is not None]
    small = int(np.prod(_shape(eqn.outvars[0]))) <= _FEW
    if eqn.primitive.name in _COUNTED.split() and len(known) == len(args) and small:
        # Numbers, also where the program is followed while another one is traced.
        with jax.ensure_compile_time_eval():
            return Of(value=np.asarray(eqn.primitive.bind(*known, **eqn.params)))
    return Of(columns=_columns(eqn, args))


def _columns(eqn: JaxprEqn, args: Sequence[Of]) -> Columns:
    last = len(_shape(eqn.outvars[0])) - 1
    if eqn.primitive.name != "concatenate" or eqn.params["dimension"] != last:
        return ()
    found: list[np.ndarray | None] = []
    for a, v in zip(args, eqn.invars, strict=True):
        for i in range(_shape(v)[-1]):
            found.append(None if a.value is None else a.value[..., i])
    return found


def _join(a: Rows | Mixed | None, b: Rows | Mixed | None) -> Rows | Mixed | None:
    """What holds whichever of two a value is: what is of no record is of any row."""
    if a is None or b is None or a == b:
        return b if a is None else a
    return next((x for x in (a, b) if isinstance(x, Mixed)), Mixed("two axes"))


def _bare(args: Sequence[Of]) -> list[Of]:
    # A number that is carried does not stay what it was.
    return [Of(a.rows) for a in args]


def _carried(
    body: ClosedJaxpr | Jaxpr,
    consts: list[Of],
    carry: list[Of],
    xs: list[Of],
    records: int,
) -> tuple[list[Of], list[Of]]:
    """What is carried and what is given by a loop, whose first round is like all others."""
    while True:
        out = _closed(body, [*consts, *carry, *xs], records)
        pairs = zip(carry, out[: len(carry)], strict=True)
        joined = [Of(_join(a.rows, b.rows)) for a, b in pairs]
        if joined == carry:
            return carry, out[len(carry) :]
        carry = joined


def _scan(params: dict, args: list[Of], records: int) -> list[Rows | Mixed | None]:
    args = _bare(args)
    n, m = params["num_consts"], params["num_carry"]
    consts, carry, xs = args[:n], args[n : n + m], args[n + m :]
    over = {x.rows for x in xs if isinstance(x.rows, Rows) and x.rows.axis == 0}
    if over:
        return _over_records(params["jaxpr"], [*consts, *carry], xs, m)
    inside = [Of(_moved(x.rows, -1)) for x in xs]
    carry, out = _carried(params["jaxpr"], consts, carry, inside, records)
    return [*(c.rows for c in carry), *(_moved(y.rows, 1) for y in out)]


def _moved(rows: Rows | Mixed | None, by: int) -> Rows | Mixed | None:
    return rows._replace(axis=rows.axis + by) if isinstance(rows, Rows) else rows


def _over_records(
    body: ClosedJaxpr | Jaxpr, rest: Sequence[Of], xs: Sequence[Of], carried: int
) -> list[Rows | Mixed | None]:
    """A loop over records, each alone: nothing of one may be carried to the next."""
    places = {x.rows for x in xs if x.rows is not None}
    jaxpr = body.jaxpr if isinstance(body, ClosedJaxpr) else body
    bare = all(a.rows is None for a in rest)
    touched = {
        v
        for v, x in zip(jaxpr.invars[len(rest) :], xs, strict=True)
        if x.rows is not None
    }
    for eqn in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in touched for v in eqn.invars):
            touched |= set(eqn.outvars)
    of_record = [not isinstance(v, Literal) and v in touched for v in jaxpr.outvars]
    if len(places) != 1 or not bare or any(of_record[:carried]):
        return [Mixed("scan")] * len(of_record)
    return [places.copy().pop() if of else None for of in of_record]


def _while(params: dict, args: list[Of], records: int) -> list[Rows | Mixed | None]:
    args = _bare(args)
    n, m = params["cond_nconsts"], params["body_nconsts"]
    asked, consts, carry = args[:n], args[n : n + m], args[n + m :]
    carry, _ = _carried(params["body_jaxpr"], consts, carry, [], records)
    if _closed(params["cond_jaxpr"], [*asked, *carry], records)[0].rows is not None:
        return [Mixed("while")] * len(carry)
    return [c.rows for c in carry]


def _cond(params: dict, args: list[Of], records: int) -> list[Rows | Mixed | None]:
    which, *args = _bare(args)
    ways = [_closed(b, args, records) for b in params["branches"]]
    found: list[Rows | Mixed | None] = [None] * len(ways[0])
    if which.rows is not None:
        return [which.rows if isinstance(which.rows, Mixed) else Mixed("cond")] * len(
            found
        )
    for way in ways:
        found = [_join(f, w.rows) for f, w in zip(found, way, strict=True)]
    return found


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond}
