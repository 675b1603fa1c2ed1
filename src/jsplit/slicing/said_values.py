"""What a value of a program is, in the words of who wrote the model: `tokens > 0`."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.extend.core import Literal

from jsplit.jaxprs.flat import Atom, Equation, Flat
from jsplit.slicing.trace import SourceKind, Traced

_BETWEEN = {
    "add": "+",
    "and": "&",
    "div": "/",
    "eq": "==",
    "ge": ">=",
    "gt": ">",
    "le": "<=",
    "lt": "<",
    "mul": "*",
    "ne": "!=",
    "or": "|",
    "rem": "%",
    "sub": "-",
}
# Which a reader of the model has not written, or not as an operation.
_UNSAID = frozenset(
    "broadcast_in_dim convert_element_type copy expand_dims name optimization_barrier "
    "reshape squeeze stop_gradient".split()
)
_DEEP, _LONG = 4, 60


def said_value(trace: Traced, v: Atom) -> str:
    """A short expression of a value.

    Args:
        trace: of the model.
        v: a value in it.

    Returns:
        As one would write it, but for what is too deep or too long, which are dots.
    """
    makers: dict[Atom, Equation] = {
        w: e for e in trace.flat.equations for w in e.writes
    }
    text = _said(trace, makers, v, _DEEP)
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."


def _said(trace: Traced, makers: Mapping[Atom, Equation], v: Atom, deep: int) -> str:
    if isinstance(v, Literal):
        value = np.asarray(v.val)
        return f"{value.item():g}" if value.dtype.kind in "iuf" else str(value)
    source = trace.sources.get(v)
    if source is not None:
        return source.name if source.kind == SourceKind.FIELD else "weights"
    equation = makers.get(v)
    if equation is None:
        return "a constant" if _is_known(trace.flat, v) else "..."
    kind, reads = equation.eqn.primitive.name, list(equation.eqn.invars)
    if kind in _UNSAID and reads:
        return _said(trace, makers, reads[0], deep)
    if not deep:
        return "..."
    own = [_said(trace, makers, x, deep - 1) for x in reads]
    if kind in _BETWEEN and len(own) == 2:
        one, two = (f"({x})" if " " in x else x for x in own)
        return f"{one} {_BETWEEN[kind]} {two}"
    return f"{kind}({', '.join(own)})"


def _is_known(flat: Flat, v: Atom) -> bool:
    found: jax.Array | None = None if isinstance(v, Literal) else flat.consts.get(v)
    return found is not None
