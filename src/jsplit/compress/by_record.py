"""Memory by record: a row for each record, whose number a field of the batch tells.

A record keeps its row wherever in a batch it comes. What has no number in range has no
row: nothing is remembered of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.finite import at_least_float32
from jsplit.core.trees import is_floating


def checked(rows: str, records: int) -> tuple[str, int]:
    """The name of the field of numbers, and how many records there are, looked at.

    Raises:
        ValueError: if either is none.
    """
    if not isinstance(rows, str) or not rows:
        raise ValueError(f"`rows` must be the name of a field, got {shown(rows)}.")
    return rows, as_positive_int("records", records)


def refuse_private(link: Link, what: str) -> None:
    """Refuse a link whose noise a memory would take off again, or whose bound it would lose.

    Args:
        link: that is wrapped.
        what: the function that wraps it.
    """
    if not isinstance(link, Link):
        raise ValueError(f"`link` must be a jsplit.Link, got {type(link).__name__}.")
    if link.secret or link.mechanism is not None:
        raise ValueError(
            f"`link` draws secret noise or states a mechanism, which `{what}` would "
            f"correct in the next message: put it before, as `chain(noise, {what}(...))`."
        )
    if link.receiver is not None:
        raise ValueError(
            f"`link` keeps a memory at its receiver: `{what}` takes one without."
        )


def check_of(
    link: Link, rows: str, records: int
) -> Callable[[Mapping[str, PyTree]], None]:
    """A function that refuses fields in which a record has no number in range.

    Args:
        link: that is wrapped, which may refuse others.
        rows: the field of numbers.
        records: how many there are.
    """

    def check(fields: Mapping[str, PyTree]) -> None:
        if link.check is not None:
            link.check({n: fields[n] for n in link.reads if n in fields})
        if rows not in fields:
            return
        found = np.asarray(fields[rows])
        _check_form(rows, found.shape, found.dtype)
        # No value of a record is told, and its number may be one.
        if found.size and not (found.min() >= 0 and found.max() < records):
            raise ValueError(
                f"field `{rows}` must number records from 0 to `records` - 1, which is "
                f"{records - 1}; it has others."
            )

    return check


def _check_form(rows: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 1 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"field `{rows}` must be integers [batch], got {dtype}{list(shape)}."
        )


def numbers_of(
    own: Mapping[str, PyTree], rows: str, records: int, leaves: Sequence[PyTree]
) -> jax.Array:
    """The number of each record, int32 [count]; `records` of one that has no row.

    A record of zeros has none either, as the cotangent of one that stands in the place of
    an example of weight 0. It must arrive as zeros, and what is kept of the record stays.

    Args:
        own: what the link is told.
        rows: the field of numbers; `None` lies there in inference.
        records: how many have a row.
        leaves: the arrays of the value.

    Raises:
        ValueError: if the field is not one integer for each of its records.
    """
    kept = [x for x in leaves if is_remembered(x)]
    count = kept[0].shape[0] if kept else 0
    given = own.get(rows)
    if given is None:
        return jnp.full(count, records, jnp.int32)
    _check_form(rows, given.shape, given.dtype)
    if given.shape != (count,):
        raise ValueError(
            f"field `{rows}` numbers {given.shape[0]} records, and the value that crosses "
            f"is of {count}: its first axis must be that of records."
        )
    if given.dtype.itemsize < 4:
        # `records` may be no number of a narrow dtype.
        given = given.astype(jnp.int32)
    known = (given >= 0) & (given < records)
    if kept:
        some = [(x != 0).reshape(count, -1).any(1) for x in kept]
        known &= jnp.stack(some).any(0)
    return jnp.where(known, given, records).astype(jnp.int32)


def tables(like: PyTree, records: int) -> list[jax.Array]:
    """A row of zeros for each record, of each array of a value that is remembered."""
    return [
        # In half precision small rests would be lost again.
        jnp.zeros((records, *x.shape[1:]), at_least_float32(x.dtype))
        for x in jax.tree.leaves(like)
        if is_remembered(x)
    ]


def is_remembered(x: PyTree) -> bool:
    """Whether anything is kept of an array: of floating ones, along their first axis."""
    return is_floating(x) and len(x.shape) > 0


def rows_of(table: jax.Array, numbers: jax.Array) -> jax.Array:
    """The rows of some records, zeros for those that have none."""
    return table.at[numbers].get(mode="fill", fill_value=0)


def last_of_each(numbers: jax.Array, records: int) -> jax.Array:
    """Of records that are there twice all but the last as if they had no row, [count].

    With two values for one row XLA may write either, and the ends might differ.
    """
    places = jnp.arange(len(numbers))
    last = jnp.full(records, -1, places.dtype).at[numbers].max(places, mode="drop")
    return jnp.where(rows_of_last(last, numbers) == places, numbers, records)


def rows_of_last(last: jax.Array, numbers: jax.Array) -> jax.Array:
    """The place of the last of each record, -1 for those without a row."""
    return last.at[numbers].get(mode="fill", fill_value=-1)
