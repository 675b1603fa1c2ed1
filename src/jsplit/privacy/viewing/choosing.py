"""Primitives that choose entries by numbers or masks: gather, scatter, select, one-hot.

An embedding gives its tokens away, up to the table. A row of a one-hot, or a scatter to
the place of a class number, gives the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.privacy.viewing.facts import NONE, Fact, giving, with_sign

Params = Mapping[str, object]

CHOOSES = {
    "dynamic_slice",
    "eq",
    "gather",
    "lt",
    "ne",
    "scatter",
    "scatter-add",
    "select_n",
}


def chosen(
    name: str,
    params: Params,
    facts: Sequence[Fact],
    result: Fact,
) -> Fact:
    """What is proven of the result of a primitive of `CHOOSES`.

    Args:
        name: of the primitive.
        params: of the equation.
        facts: of its arguments.
        result: as `facts.plain` gives it.
    """
    if name == "select_n":
        return _select(facts, result)
    if name == "gather":
        return _gather(params, facts[0], facts[1], result)
    if name.startswith("scatter"):
        return _scatter(params, facts, result)
    if name == "dynamic_slice":
        return _dynamic_slice(params, facts, result)
    return _compare(name, facts[0], facts[1], result)


def _compare(name: str, a: Fact, b: Fact, result: Fact) -> Fact:
    """A one-hot of class numbers; and a sign of an index, for `_select`."""
    if name == "lt":
        zero = b.value() if b.const and not b.shape else None
        known = zero is not None and zero == 0
        return replace(result, made=("negative", a)) if known else result
    x, other = (a, b) if a.ids is not None else (b, a)
    value = other.value()
    if x.ids is None or value is None or x.dtype.kind not in "iu":
        return result
    ids = np.broadcast_to(x.ids, result.shape)
    pairs = np.stack([ids.ravel(), np.broadcast_to(value, result.shape).ravel()], 1)
    pairs = np.unique(pairs[pairs[:, 0] != NONE], axis=0)
    numbers, counts = np.unique(pairs[:, 0], return_counts=True)
    # Compared with one class number alone, an entry is told from no third one.
    found = giving(result, [x, other], None, numbers[counts > 1])
    last = x.shape[-1:] == (1,) and np.ndim(value) and value.shape[-1] > 1
    classes = bool(found.gives and last and name == "eq")
    return replace(found, classes=classes, even=classes)


def _select(facts: Sequence[Fact], result: Fact) -> Fact:
    which, *cases = facts
    # How JAX counts from the end: `where(i < 0, i + n, i)` is an index at the same place.
    if which.made and which.made == ("negative", cases[0]):
        if cases[-1].made == ("shift", cases[0]):
            return giving(result, [cases[0]], cases[0].ids, cases[0].block)

    choice = which.value()
    numbers = [np.full(result.shape, NONE) if c.ids is None else c.ids for c in cases]
    if choice is not None:
        at = np.broadcast_to(choice.astype(int), result.shape)
        return giving(result, cases, np.choose(at, numbers))
    if not which.clean or which.unknown:
        return result
    # The observers have the mask, so they know where an entry was let through.
    givers = [c for c in cases if c.gives]
    if len(givers) != 1:
        return result
    found = giving(result, givers, givers[0].ids, givers[0].block)
    return replace(found, some=True) if found.gives else result


def _gather(params: Params, operand: Fact, index: Fact, result: Fact) -> Fact:
    if operand.gives and not index.gives:
        return _taken(params, operand, index, result)
    if operand.gives or index.ids is None or not operand.clean:
        return result
    dims = params["dimension_numbers"]
    if operand.const and not _distinct(operand.value(), dims):
        return result
    # Of what is no number of a learned table or of an output two may be equal.
    surely = operand.generic or operand.const or jnp.issubdtype(operand.dtype, "float")

    # One number picks one row of the table, all of whose entries then give it away.
    numbers = index.ids
    if numbers.shape[-1] != 1:
        return giving(result, [operand, index], None, index.given())
    offset = getattr(dims, "offset_dims", ())
    numbers = np.expand_dims(numbers[..., 0], tuple(offset))
    ids = np.broadcast_to(numbers, result.shape)
    found = giving(result, [operand, index], ids)
    return replace(found, slope=0, some=found.some or not surely)


def _distinct(value: np.ndarray | None, dims: object) -> bool:
    """Whether a table of the code has no two equal rows, where one index picks a row."""
    if value is None or getattr(dims, "start_index_map", ()) != (0,):
        return False
    rows = value.reshape(len(value), -1)
    return len(np.unique(rows, axis=0)) == len(rows)


def _taken(params: Params, operand: Fact, index: Fact, result: Fact) -> Fact:
    """Entries of a field that indices pick."""
    at = index.value()
    if at is not None and operand.ids is not None:
        ids = _gathered(params, operand.ids, at)
        return giving(result, [operand], ids)
    # Records in an order that all know, say: which entries they are is not followed.
    if at is None and not index.unknown:
        return replace(giving(result, [operand], None, operand.given()), some=True)
    return result


def _gathered(params: Params, ids: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Numbers of entries, picked by JAX as it picks entries."""
    found = jax.lax.gather(
        # Shifted by one, so that what is out of range is `NONE`.
        jnp.asarray(ids + 1, "int32"),
        jnp.asarray(at),
        dimension_numbers=params["dimension_numbers"],  # type: ignore[arg-type]
        slice_sizes=params["slice_sizes"],  # type: ignore[arg-type]
        mode=params["mode"],  # type: ignore[arg-type]
        fill_value=0,
    )
    return np.asarray(found).astype(np.int64) - 1


def _scatter(params: Params, facts: Sequence[Fact], result: Fact) -> Fact:
    """Numbers put at the places of class numbers, as in the derivative of a lookup."""
    operand, index, updates = facts[0], facts[1], with_sign(facts[2])
    if not index.gives or not operand.clean or not updates.clean:
        return result
    if operand.gives or updates.gives:
        return result
    dims = params["dimension_numbers"]
    batched = getattr(dims, "scatter_indices_batching_dims", ())
    lines = [n for i, n in enumerate(index.shape[:-1]) if i not in batched]
    # Several numbers put into one line tell no longer which of them came first.
    if np.prod(lines, dtype=int) != 1:
        return result
    found = giving(result, [operand, index, updates], None, index.given())
    surely = updates.sign or updates.generic
    # An update of 0 leaves no trace of its place.
    return found if surely or not found.gives else replace(found, some=True)


def _dynamic_slice(params: Params, facts: Sequence[Fact], result: Fact) -> Fact:
    x, starts = facts[0], [f.value() for f in facts[1:]]
    if x.ids is None or any(s is None for s in starts):
        return result
    at: list[slice] = []
    for start, size, whole in zip(starts, result.shape, x.shape, strict=True):
        # JAX moves a start so that the slice fits.
        first = max(0, min(int(start or 0), whole - size))
        at.append(slice(first, first + size))
    return giving(result, [x], x.ids[tuple(at)])
