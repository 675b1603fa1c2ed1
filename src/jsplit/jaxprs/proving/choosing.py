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

from jsplit.jaxprs.proving.facts import NONE, Fact, giving, with_sign
from jsplit.jaxprs.proving.placing import placed, placed_slice, sliced
from jsplit.jaxprs.proving.unordered import either, somewhere

Params = Mapping[str, object]

CHOOSES = {
    "dynamic_slice",
    "dynamic_update_slice",
    "eq",
    "gather",
    "lt",
    "ne",
    "scatter",
    "scatter-add",
    "scatter-mul",
    "scatter_add",
    "scatter_mul",
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
        if facts[1].const:
            return placed(name[8:], params, facts, result)
        return _scatter(name[8:], params, facts, result)
    if name == "dynamic_slice":
        return _dynamic_slice(facts, result)
    if name == "dynamic_update_slice":
        return placed_slice(facts, result)
    return _compare(name, facts[0], facts[1], result)


def _compare(name: str, a: Fact, b: Fact, result: Fact) -> Fact:
    """A one-hot of class numbers; and a sign of an index, for `_select`."""
    if name == "lt":
        zero = b.value() if b.const and not b.shape else None
        known = zero is not None and zero == 0
        return replace(result, made=("negative", (a,))) if known else result
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
    if found.gives and x.most is not None:
        # Of all numbers that there are one may be left out: it is the one that is none.
        left = {*range(x.most + 1)} - {*map(int, np.unique(value))}
        found = replace(found, some=found.some or len(left) > 1)
    last = x.shape[-1:] == (1,) and np.ndim(value) and value.shape[-1] > 1
    classes = bool(found.gives and last and name == "eq")
    return replace(found, classes=classes, even=classes)


def _select(facts: Sequence[Fact], result: Fact) -> Fact:
    which, *cases = facts
    # How JAX counts from the end: `where(i < 0, i + n, i)` is an index at the same place
    # of n, and as a number it is not `i`.
    if which.made and which.made == ("negative", (cases[0],)):
        shift = cases[-1].made
        if shift and shift[0] == "shift" and shift[1][0] is cases[0]:
            return replace(result, made=("index", shift[1]))

    choice = which.value()
    numbers = [np.full(result.shape, NONE) if c.ids is None else c.ids for c in cases]
    if choice is not None:
        at = np.broadcast_to(choice.astype(int), result.shape)
        return giving(result, cases, np.choose(at, numbers))
    if not which.clean or which.unknown:
        return _replaced(cases, result)
    # The observers have the mask, so they know where an entry was let through.
    givers = [c for c in cases if c.gives]
    if len(givers) != 1:
        return result
    found = giving(result, givers, givers[0].ids, givers[0].block)
    return replace(found, some=True) if found.gives else result


def _replaced(cases: Sequence[Fact], result: Fact) -> Fact:
    """Entries some of which are replaced by numbers of the code, as where they are NaN."""
    if all(c.gives for c in cases):
        return either(cases, result)
    givers = [c for c in cases if c.ids is not None]
    others = [c for c in cases if c.ids is None]
    if len(givers) != 1 or not all(c.const and not c.gives for c in others):
        return result
    # Nobody who does not have the mask is in doubt: what is none of these numbers is an
    # entry.
    found = giving(result, givers, givers[0].ids)
    return replace(found, some=True) if found.gives else result


def _index(index: Fact, operand: Fact, axes: Sequence[int]) -> Fact:
    """An index before it was counted from the end, if it was from that of its axes."""
    if index.made is None or index.made[0] != "index":
        return index
    x, shift = index.made[1]
    size = shift.value()
    fits = all(size is not None and (size == operand.shape[i]).all() for i in axes)
    return x if fits else index


def _gather(params: Params, operand: Fact, index: Fact, result: Fact) -> Fact:
    dims = params["dimension_numbers"]
    axes = getattr(dims, "start_index_map", ())
    index = _index(index, operand, axes)
    if operand.gives and not index.gives:
        return _taken(params, operand, index, result)
    if operand.gives or index.ids is None or not operand.clean:
        return result
    rows, entries = _distinct(operand, params)
    # Of one row there is no other.
    if (operand.const and not rows) or any(operand.shape[i] == 1 for i in axes):
        return result

    # One number picks one row of the table, all of whose entries then give it away.
    numbers = index.ids
    if numbers.shape[-1] != 1 or (rows and not entries):
        found = giving(result, [operand, index], None, index.given())
        return replace(found, some=found.some or not rows) if found.gives else result
    offset = getattr(dims, "offset_dims", ())
    numbers = np.expand_dims(numbers[..., 0], tuple(offset))
    ids = np.broadcast_to(numbers, result.shape)
    found = giving(result, [operand, index], ids)
    return replace(found, slope=0, some=found.some or not rows)


_BITS = {8: 50, 4: 22, 2: 8, 1: 2}  # of a learned number, by its bytes


def apart(table: Fact) -> bool:
    """Whether no two rows of a learned table are equal, but by a rare chance."""
    width = int(np.prod(table.shape[1:]))
    return table.distinct and _differ(table, width)


def _differ(table: Fact, width: int) -> bool:
    """Whether so many rows of so many random numbers all differ, most likely."""
    rows = max(2, table.shape[0]) if table.shape else 1
    # Among 2**n random values two of 2**(n/2) are equal.
    return 2 * np.log2(rows) <= width * _BITS.get(table.dtype.itemsize, 0)


def _distinct(operand: Fact, params: Params) -> tuple[bool, bool]:
    """Whether no two rows of a table are equal; and no two entries of a column."""
    if not operand.const:
        # Of what is no number of a learned table two may be equal.
        return apart(operand), operand.distinct and _differ(operand, 1)
    value = operand.value()
    dims, sizes = params["dimension_numbers"], params["slice_sizes"]
    assert isinstance(sizes, tuple)
    # Only where one index picks a whole row.
    whole = tuple(sizes) == (1, *operand.shape[1:])
    if value is None or getattr(dims, "start_index_map", ()) != (0,) or not whole:
        return False, False
    rows = value.reshape(len(value), -1)
    differ = len(np.unique(rows, axis=0)) == len(rows)
    small = rows.size <= 1 << 20
    entries = small and all(len(np.unique(c)) == len(c) for c in rows.T)
    return differ, differ and entries


def _taken(params: Params, operand: Fact, index: Fact, result: Fact) -> Fact:
    """Entries of a field that indices pick."""
    at = index.value()
    if at is not None and operand.ids is not None:
        ids = _gathered(params, operand.ids, at)
        return giving(result, [operand], ids)
    # Records in another order, say: which entries they are is not followed.
    return somewhere([operand], result) if at is None else result


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


def _scatter(how: str, params: Params, facts: Sequence[Fact], result: Fact) -> Fact:
    """Numbers put at the places of class numbers, as in the derivative of a lookup."""
    operand, index, updates = facts[0], facts[1], with_sign(facts[2])
    dims = params["dimension_numbers"]
    axes = getattr(dims, "scatter_dims_to_operand_dims", ())
    index = _index(index, operand, axes)
    if how not in ("", "add"):
        return result
    if not index.gives or not operand.clean or not updates.clean:
        return result
    if operand.gives or updates.gives:
        return result
    batched = getattr(dims, "scatter_indices_batching_dims", ())
    lines = [n for i, n in enumerate(index.shape[:-1]) if i not in batched]
    # Several numbers put into one line tell no longer which of them came first.
    if np.prod(lines, dtype=int) != 1:
        return result
    found = giving(result, [operand, index, updates], None, index.given())
    if not found.gives:
        return result
    # An update of 0 leaves no trace of its place; nor does one of what is there.
    zero = operand.value() if operand.const else None
    zero = zero is not None and not zero.any()
    surely = (updates.sign or updates.generic) and (how == "add" or zero)
    # One number into each line of zeros, along the last axis.
    last = len(operand.shape) - 1
    lines = index.shape[-1] == 1 and axes == (last,) and len(batched) == last
    classes = bool(zero and lines and updates.shape == operand.shape[:-1] + (1,))
    return replace(found, some=found.some or not surely, classes=classes, even=classes)


def _dynamic_slice(facts: Sequence[Fact], result: Fact) -> Fact:
    x = facts[0]
    at = sliced(facts[1:], result.shape, x.shape)
    if at is None:
        return somewhere([x], result)
    return result if x.ids is None else giving(result, [x], x.ids[at])
