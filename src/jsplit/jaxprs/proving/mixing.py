"""Primitives that mix entries: which linear ones can be undone, and which sums are none.

A product with a matrix of the code gives its factor away if the matrix has full rank. A
learned matrix is not claimed: nobody but its owner can undo it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jsplit.jaxprs.proving.choosing import apart
from jsplit.jaxprs.proving.facts import NONE, Fact, giving
from jsplit.jaxprs.proving.spanning import told

Params = Mapping[str, object]
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}
MIXES = {"cumlogsumexp", "cumsum", "dot_general", "fft", *_REDUCTIONS}
_LARGEST = 1 << 20  # entries of a matrix whose rank is computed


def mixed(name: str, params: Params, facts: Sequence[Fact], result: Fact) -> Fact:
    """What is proven of the result of a primitive of `MIXES`.

    Args:
        name: of the primitive.
        params: of the equation.
        facts: of its arguments.
        result: as `facts.plain` gives it.
    """
    if name == "dot_general":
        return _dot(params, facts[0], facts[1], result)
    x = facts[0]
    if name == "reduce_sum" and (x.spread or (x.classes and x.even)):
        # Whatever the class is, the sum of its line is the same.
        if params["axes"] == (len(x.shape) - 1,):
            return replace(result, unknown=x.key)
    if name in _REDUCTIONS:
        # Along an axis of one entry there is nothing to mix.
        same = np.prod(x.shape) == np.prod(result.shape)
        ids = None if x.ids is None else x.ids.reshape(result.shape) if same else None
        return giving(result, [x], ids, x.block if same else None)
    if name == "fft" and result.dtype.kind != "c":
        return result
    # Differences of neighbours undo a sum up to here. So each line of it gives away the
    # entries that it begins with, as far as all before them are known too.
    ids = x.ids
    complete = ids is not None and bool((ids != NONE).all())
    return (
        replace(giving(result, [x], None, x.given()), slope=0) if complete else result
    )


def _dot(params: Params, a: Fact, b: Fact, result: Fact) -> Fact:
    dims = params["dimension_numbers"]
    assert isinstance(dims, tuple)
    (of_a, of_b), (batch_a, _) = dims
    if a.gives == b.gives or batch_a:
        return result
    x, other, of_x, of_other = (a, b, of_a, of_b) if a.gives else (b, a, of_b, of_a)
    if not other.clean:
        return result
    if x.classes and tuple(of_x) == (len(x.shape) - 1,):
        # A one-hot times a table is a row of it.
        value = other.value()
        # Where the number of a line depends on its class, it may make equal what differs.
        differ = x.even and value is not None and _rows_differ(value, of_other)
        if apart(_rows_first(other, of_other)) or differ:
            return replace(giving(result, [x, other], None, x.given()), classes=False)
        return result
    value = other.value()
    if value is None or value.size > _LARGEST or x.ids is None:
        return result
    return _by_matrix(x, _matrix(value, of_other), tuple(of_x), result, x is a)


def _matrix(value: np.ndarray, contracted: Sequence[int]) -> np.ndarray:
    """A constant as a matrix from contracted entries to those of the result."""
    left = [i for i in range(value.ndim) if i not in contracted]
    rows = int(np.prod([value.shape[i] for i in contracted]))
    return value.transpose(*contracted, *left).reshape(rows, -1).astype(float)


def _rows_first(table: Fact, contracted: Sequence[int]) -> Fact:
    """A table with the axis along which rows are picked before the others."""
    left = [n for i, n in enumerate(table.shape) if i not in contracted]
    rows = [table.shape[i] for i in contracted]
    return replace(table, shape=(int(np.prod(rows)), *left))


def _rows_differ(value: np.ndarray, contracted: Sequence[int]) -> bool:
    rows = _matrix(value, contracted)
    return len(np.unique(rows, axis=0)) == len(rows)


def _counts(x: Fact, result: Fact) -> bool:
    """Whether products and sums are those of real numbers: of few bits they wrap around."""
    return x.dtype.kind not in "iu" or result.dtype.itemsize > 2


def _by_matrix(
    x: Fact, matrix: np.ndarray, of_x: tuple[int, ...], result: Fact, first: bool
) -> Fact:
    """A product with a matrix of the code: entries that it picks, or all if it has full rank."""
    assert x.ids is not None
    kept = [i for i in range(len(x.shape)) if i not in of_x]
    lines = x.ids.transpose(*kept, *of_x).reshape(-1, matrix.shape[0])
    block = None
    if (lines != NONE).all() and _counts(x, result) and told(matrix.T).all():
        block = x.given()
    # Columns with one number that is not 0 pick an entry: a permutation, a crop.
    single = ((matrix != 0).sum(0) == 1) & _counts(x, result)
    picked = np.where(single, np.abs(matrix).argmax(0), 0)
    ids = np.where(single, lines[:, picked], NONE)
    ids = ids if first else ids.T
    return replace(giving(result, [x], ids.reshape(result.shape), block), slope=0)
