"""What goes with a cut as it went with one before: the segment between only hands it on.

So whoever made it may have it, as the client in a U shape; see `topology/own_values.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax.extend.core import Var

from jsplit.core.handed import Handed
from jsplit.jaxprs.flat import Atom, shape_of
from jsplit.jaxprs.slices import backward_slice
from jsplit.slicing.around import Around
from jsplit.slicing.trace import LEAF, Traced, Value, Ways


def ways_of(
    trace: Traced, found: Around, keys: Sequence[str], closed: Sequence[str]
) -> Ways:
    """How what is carried with a cut came over the cuts before it.

    Args:
        trace: in which these are closed.
        found: what closes the cut.
        keys: of the carried values, in their order.
        closed: the cuts before it.
    """
    ways: dict[str, tuple[tuple[str, str], ...]] = {}
    for key, v in zip(keys, found.carried, strict=True):
        for cut in closed:
            where = _key_in(trace.cuts[cut], v, found)
            if where is not None:
                before = trace.handed.get(cut, {}).get(where, ())
                ways[key] = ((cut, where), *before)
    return ways


def _key_in(value: Value, v: Var, found: Around) -> str | None:
    """The key of a variable in a value; `""` if it is the value itself."""
    keyed = _keyed(value).items()
    same = [k for k, x in keyed if isinstance(x, Var) and found.of(x) == v]
    return same[0] if same else None


def _keyed(value: Value) -> dict[str, Atom]:
    """The atoms of a cut by their keys; `""` of one that is an array alone."""
    if value.structure == LEAF:
        return {"": value.atoms[0]}
    return value.structure.unflatten(value.atoms)


def handed_to(traces: Sequence[Traced], inputs: Sequence[str]) -> tuple[Handed, ...]:
    """What a segment reads that those before it only handed on, in all traces.

    Args:
        traces: of the model, in both modes.
        inputs: of the segment.
    """
    first, *others = traces
    found: list[Handed] = []
    for cut in inputs:
        for key, before in first.handed.get(cut, {}).items():
            if all(t.handed.get(cut, {}).get(key) == before for t in others):
                v = _keyed(first.cuts[cut]).get(key)
                if v is None:  # nobody reads it
                    continue
                floats = jnp.issubdtype(shape_of(v).dtype, jnp.inexact)
                only = all(_only_handed_on(t, cut, key, before[0]) for t in traces)
                found.append(Handed(cut, key, before, bool(floats), only))
    return tuple(found)


def _only_handed_on(trace: Traced, cut: str, key: str, before: tuple[str, str]) -> bool:
    """Whether nothing else of a cut, and no state, is computed from what it hands on."""
    v = _keyed(trace.cuts[before[0]])[before[1]]
    others = [x for k, x in _keyed(trace.cuts[cut]).items() if k != key]
    ends = [*others, *trace.new_state]
    return v not in backward_slice(trace.flat, ends, trace.stops(cut)).reads


def check_handed(name: str, trace: Traced, handed: Sequence[Handed]) -> None:
    """Refuse a size at which what was handed on at the example's is computed anew.

    Raises:
        ValueError: naming the segment, and what it reads.
    """
    for x in handed:
        if trace.handed.get(x.input, {}).get(x.key) != x.before:
            raise ValueError(
                f"segment `{name}`: `{x.key}` of `{x.input}` is that of "
                f"`{x.before[0][0]}` at the sizes of the example, and at these another; "
                "make it part of the cut."
            )
