"""`temporal_differences`: send by how much a record's value differs from the last time.

Both ends keep what the receiver has of each record, and so mean the same by a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.compress.by_record import (
    check_of,
    checked,
    is_remembered,
    last_of_each,
    numbers_of,
    refuse_private,
    rows_of,
    tables,
)
from jsplit.core.base import Link, PyTree, Receiver, State
from jsplit.core.links import encode_by
from jsplit.core.trees import abstract

_Own = Mapping[str, PyTree]


class _Differences(NamedTuple):
    """A message.

    Attributes:
        rows: the number of each record, the narrowest unsigned integers that can say it.
        payload: of the differences, as the inner link encodes them.
    """

    rows: jax.Array
    payload: PyTree


class _Sent(NamedTuple):
    """What the sender keeps.

    Attributes:
        rows: of each array what the receiver has of each record, [records, ...].
        link: the inner link's own memory.
    """

    rows: list[jax.Array]
    link: State


def temporal_differences(link: Link, *, rows: str, records: int) -> Link:
    """Send the difference of each record's value to what was last sent of that record.

    Differences of one record from one epoch to the next are smaller than its values, so
    few bits say them exactly: through `quantize(4, stochastic=False)` a value that no longer
    changes arrives with an error that falls by a factor of 14 with each message. What
    `link` rounds off is in the next difference, so it is corrected and needs no error
    feedback; it must be nearer to the difference than nothing would be, as rounding to the
    nearest is, and stochastic rounding to very few bits is not.

    Both ends keep what the receiver has reconstructed, a row of `records` for each record,
    in `PartyState.links` under the message's label. A record that is new is sent whole, as
    a difference to zeros. One that is in a batch twice is compared with its row both
    times, and the last is kept. In inference, and where a number is out of range, there is
    no memory: values go through `link` alone, and nothing is kept. So does a record of
    zeros, as the cotangent of an example of weight 0 is. Few bits that train well are coarse
    there: predict by a trainer with a finer link or none, whose state has the same weights
    (`jsplit.load_variables(other.init(0, batch), *jsplit.variables(state))`).

    Every message has the size that the shapes say: no row is left out that has hardly
    changed, as SplitCom does, since its size would be known only at run time. To use fewer
    bytes give a `link` that sends fewer. Rows are numbers of records, so the receiver
    learns which records are the same again.

    Args:
        link: sends the differences, as `quantize(4, stochastic=False)`.
        rows: the field of the batch with the number of each record, integers [batch] from
            0 to `records - 1`, the same for a record in every epoch. The sender holds it;
            it goes to the receiver in each message, 1, 2 or 4 bytes a record. If no
            segment reads it: `dataclasses.replace(topology, holds={**topology.holds,
            "client": (*topology.holds["client"], "row")})`.
        records: how many records there are. Each end keeps so many times the numbers of
            one record, 4 bytes each.

    Returns:
        A `Link` with a memory at both ends. In a chain it is the last.

    Raises:
        ValueError: if an argument does not fit, or `link` draws secret noise, which would
            be corrected away, or has a memory at its receiver itself. In the first batch,
            if a number is out of range.

    References:
        Wang et al., `Fine-tuning language models over slow networks using activation
        compression with guarantees <https://arxiv.org/abs/2206.01299>`_, NeurIPS 2022,
        which quantises the change of each record's activation; Li et al., `SplitCom
        <https://arxiv.org/abs/2602.10564>`_, 2026.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> few = jsplit.compress.quantize(4, stochastic=False)
        >>> link = jsplit.compress.temporal_differences(few, rows="row", records=9)
        >>> h, like = jnp.array([[3.0, 1.0]]), jax.ShapeDtypeStruct((1, 2), "float32")
        >>> mine, theirs, own = link.init(like), link.receiver.init(like), {"row": jnp.array([7])}
        >>> for _ in range(3):
        ...     payload, mine = link.encode(mine, h, jax.random.key(0), own)
        ...     got, theirs = link.receiver.decode(theirs, payload, like)
        ...     print(f"{float(abs(got - h).max()):.3f}")
        0.141
        0.008
        0.000
    """
    refuse_private(link, "temporal_differences")
    rows, records = checked(rows, records)
    narrow = np.min_scalar_type(records)

    def init(like: PyTree) -> State:
        return _Sent(tables(like, records), link.init(like))

    def encode(
        state: State, value: PyTree, key: jax.Array, own: _Own
    ) -> tuple[PyTree, State]:
        like, leaves = abstract(value), jax.tree.leaves(value)
        numbers = numbers_of(own, rows, records, leaves)
        before = _before(state.rows, numbers, leaves)
        differences = [
            x if was is None else (x.astype(was.dtype) - was).astype(x.dtype)
            for x, was in zip(leaves, before, strict=True)
        ]
        tree = jax.tree.unflatten(jax.tree.structure(value), differences)
        payload, inner = encode_by(link, state.link, tree, key, own)
        _, after = _arrived(link, state.rows, numbers, payload, like)
        return _Differences(numbers.astype(narrow), payload), _Sent(after, inner)

    def decode_with(state: State, sent: PyTree, like: PyTree) -> tuple[PyTree, State]:
        numbers = sent.rows.astype(jnp.int32)
        return _arrived(link, state, numbers, sent.payload, like)

    def decode(sent: PyTree, like: PyTree) -> PyTree:
        return decode_with(tables(like, records), sent, like)[0]

    return Link(
        init,
        encode,
        decode,
        reads=tuple(dict.fromkeys((rows, *link.reads))),
        strengths=link.strengths,
        check=check_of(link, rows, records),
        # What is kept does not depend on the value, so its derivative is the link's.
        pull=link.pull,
        receiver=Receiver(
            lambda like: tables(like, records), decode_with, lambda state: state.rows
        ),
    )


def _before(
    kept: list[jax.Array], numbers: jax.Array, leaves: list[PyTree]
) -> list[jax.Array | None]:
    """By array, what the receiver has of these records; `None` where nothing is kept."""
    left = iter(kept)
    return [rows_of(next(left), numbers) if is_remembered(x) else None for x in leaves]


def _arrived(
    link: Link,
    kept: list[jax.Array],
    numbers: jax.Array,
    payload: PyTree,
    like: PyTree,
) -> tuple[PyTree, list[jax.Array]]:
    """The value that arrives, and what is kept of it: the same at both ends."""
    shapes, structure = jax.tree.flatten(like)
    # Two programs run this. Were the sum fused with what is before it, one of them might
    # round a product first and the other not, and their memories would come apart.
    came = jax.lax.optimization_barrier(link.decode(payload, like))
    last = last_of_each(numbers, kept[0].shape[0]) if kept else numbers
    value: list[PyTree] = []
    after: list[jax.Array] = []
    for x, shape, was in zip(
        structure.flatten_up_to(came),
        shapes,
        _before(kept, numbers, shapes),
        strict=True,
    ):
        if was is None:
            value.append(x)
            continue
        now = was + x.astype(was.dtype)
        after.append(kept[len(after)].at[last].set(now, mode="drop"))
        value.append(now.astype(shape.dtype))
    return structure.unflatten(value), after
