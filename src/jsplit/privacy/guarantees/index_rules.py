"""Where the records' axis goes in what reads or writes at computed places.

Rows may be looked up at places of records (an embedding, the logit of a label), but a
record's own entries only at its own row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jsplit.privacy.guarantees.axis_rules import Call, Rows

Columns = Sequence[np.ndarray | None]
"""Of indices, the numbers of each entry of a place where they are known."""


def gathered(call: Call, columns: Columns) -> Rows | None:
    """The place of the records in what is read.

    Args:
        call: an operand, and indices.
        columns: of the indices.
    """
    numbers, (operand, indices) = call.params["dimension_numbers"], call.rows
    ahead = [a for a in range(len(call.out)) if a not in numbers.offset_dims]
    if operand is None:
        if indices is None or indices.axis == len(call.shapes[1]) - 1:
            return None
        return indices._replace(axis=ahead[indices.axis])
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    at = operand.axis
    own = _own_row(
        operand,
        (numbers.operand_batching_dims, numbers.start_indices_batching_dims),
        (numbers.start_index_map, numbers.collapsed_slice_dims),
        columns,
        call,
    )
    if own is not None:
        if indices not in (None, operand._replace(axis=own)):
            return None
        return operand._replace(axis=ahead[own])
    whole = call.params["slice_sizes"][at] == call.shapes[0][at]
    if indices is not None or at in gone or not whole:
        return None
    # The whole axis is read, wherever a start that is clamped says.
    kept = [a for a in range(len(call.shapes[0])) if a not in gone]
    return operand._replace(axis=numbers.offset_dims[kept.index(at)])


def scattered(call: Call, columns: Columns) -> Rows | None:
    """The place of the records in an operand that was written into.

    Args:
        call: an operand, indices and updates.
        columns: of the indices.
    """
    numbers = call.params["dimension_numbers"]
    operand, indices, updates = call.rows
    if updates is None and indices is None:
        return operand
    ahead = [
        a for a in range(len(call.shapes[2])) if a not in numbers.update_window_dims
    ]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [a for a in range(len(call.out)) if a not in gone]
    place = operand
    if place is None and updates is not None and updates.axis not in ahead:
        window = tuple(numbers.update_window_dims).index(updates.axis)
        place = updates._replace(axis=kept[window])
    if place is None:
        place = _written(call, ahead, indices, updates)
    if place is None:
        return None
    own = _own_row(
        place,
        (numbers.operand_batching_dims, numbers.scatter_indices_batching_dims),
        (numbers.scatter_dims_to_operand_dims, numbers.inserted_window_dims),
        columns,
        call,
    )
    if own is not None:
        fits = indices in (None, place._replace(axis=own))
        fits = fits and updates in (None, place._replace(axis=ahead[own]))
        return place if fits else None
    # A window over the whole axis, of updates that lie along it.
    if indices is not None or place.axis not in kept:
        return None
    along = numbers.update_window_dims[kept.index(place.axis)]
    whole = call.shapes[2][along] == call.out[place.axis]
    return place if whole and updates == place._replace(axis=along) else None


def _written(
    call: Call, ahead: Sequence[int], indices: Rows | None, updates: Rows | None
) -> Rows | None:
    """Where rows of an operand without records must lie to be written row by row."""
    numbers = call.params["dimension_numbers"]
    if indices is None:
        assert updates is not None
        axis = ahead.index(updates.axis)
        inner = updates.inner
    else:
        axis, inner = indices
    paired = tuple(numbers.scatter_indices_batching_dims)
    if axis in paired:
        return Rows(numbers.operand_batching_dims[paired.index(axis)], inner)
    # Else where the index is known to be the record's own.
    size = call.shapes[1][axis] if axis < len(call.shapes[1]) else 0
    for d in numbers.scatter_dims_to_operand_dims:
        if call.out[d] == size == call.records and d in numbers.inserted_window_dims:
            return Rows(d, inner)
    return None


def _own_row(
    place: Rows,
    paired: tuple[Sequence[int], Sequence[int]],
    looked_up: tuple[Sequence[int], Sequence[int]],
    columns: Columns,
    call: Call,
) -> int | None:
    """The axis of the indices along which each record is looked up in its own row."""
    of_operand, of_indices = map(tuple, paired)
    if place.axis in of_operand:
        return of_indices[of_operand.index(place.axis)]
    indexed, single = looked_up
    # Of a slice of several rows only the first is the record's own.
    alone = place.axis in indexed and place.axis in single and place.inner == 1
    if not alone or not columns:
        return None
    known = columns[tuple(indexed).index(place.axis)]
    if known is None or call.shapes[0][place.axis] != call.records:
        return None
    for axis, size in enumerate(known.shape):
        if size != call.records:
            continue
        counted = np.arange(size).reshape(
            [-1 if a == axis else 1 for a in range(known.ndim)]
        )
        if np.array_equal(known, np.broadcast_to(counted, known.shape)):
            return axis
    return None
