"""`error_feedback`: what a link leaves out is added to what goes through it the next time.

Kept by place in the batch, or by record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
from jsplit.core.base import Link, PyTree, State
from jsplit.core.finite import at_least_float32
from jsplit.core.links import encode_by
from jsplit.core.trees import abstract

_Own = Mapping[str, PyTree]


class _Kept(NamedTuple):
    """What the sender keeps.

    Attributes:
        rest: of each floating array what has not arrived yet, float32 at least:
            [batch, ...], or by record [records, ...].
        link: the inner link's own memory.
    """

    rest: list[jax.Array]
    link: State


def error_feedback(
    link: Link, *, rows: str | None = None, records: int | None = None
) -> Link:
    """Keep what a link has lost of a value, and add it to what it sends next.

    So nothing is lost for good: the sum of all that arrived and of what is kept is the sum
    of all values. What is sent has the link's size.

    By default the rest is kept **by place in the batch**. So it corrects anything only
    where the same records come back in the same places, as with one full batch; else
    records get what others left out.
    It is for cotangents, of which sums are learned from. A single value arrives with the
    rest of an earlier one in it, which an activation is not better for: there take
    `temporal_differences`. The rest stays smaller than the values only if `link` gives
    what is nearer to them than nothing would be, as `top_k` and `quantize(stochastic=False)`
    do, and stochastic rounding to few bits does not.

    With `rows` and `records` it is kept by record. A record that is in a batch twice gets
    its rest once, and both leave theirs; one of zeros gets none. In inference nothing is
    added and nothing kept.

    Args:
        link: any link without a memory at its receiver, as `jsplit.compress.top_k(8)` or
            `quantize(2, stochastic=False)`.
        rows: the sender's field with the number of each record, integers [batch] from 0 to
            `records - 1`. It is not sent.
        records: how many records there are; each takes 4 bytes for each of its numbers.

    Returns:
        A `Link` with a memory at its sender.

    Raises:
        ValueError: if `link` draws secret noise, which would be taken off again, or only
            one of `rows` and `records` is given. In a step, if batches have several
            sizes and the rest is kept by place.

    References:
        Seide et al., 1-bit stochastic gradient descent, Interspeech 2014; Stich,
        Cordonnier & Jaggi, `Sparsified SGD with memory
        <https://arxiv.org/abs/1809.07599>`_, 2018, algorithm 1; Karimireddy et al.,
        `Error feedback fixes SignSGD <https://arxiv.org/abs/1901.09847>`_, 2019.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> link = jsplit.compress.error_feedback(jsplit.compress.top_k(1))
        >>> h, total = jnp.array([[3.0, 2.0]]), 0
        >>> state = link.init(h)
        >>> for _ in range(3):
        ...     payload, state = link.encode(state, h, jax.random.key(0))
        ...     total += link.decode(payload, jax.typeof(h))
        >>> print(total, state.rest[0])
        [[9. 4.]] [[0. 2.]]
    """
    refuse_private(link, "error_feedback")
    if (rows is None) != (records is None):
        raise ValueError("`rows` and `records` must be given together, or neither.")
    by_record = None if rows is None else checked(rows, records or 0)

    def init(like: PyTree) -> State:
        if by_record:
            return _Kept(tables(like, by_record[1]), link.init(like))
        rest = [
            # In half precision small rests would be lost again.
            jnp.zeros(x.shape, at_least_float32(x.dtype))
            for x in jax.tree.leaves(like)
            if is_remembered(x)
        ]
        return _Kept(rest, link.init(like))

    def encode(
        state: State, value: PyTree, key: jax.Array, own: _Own | None = None
    ) -> tuple[PyTree, State]:
        leaves, structure = jax.tree.flatten(value)
        own, numbers, once = own or {}, None, None
        if by_record:
            numbers = numbers_of(own, *by_record, leaves)
            once = last_of_each(numbers, by_record[1])
        left = iter(state.rest)
        full: list[PyTree] = []
        for x in leaves:
            if is_remembered(x):
                x = _with_rest(next(left), x, once)
            full.append(x)
        sent = [f.astype(x.dtype) for f, x in zip(full, leaves, strict=True)]
        tree = structure.unflatten(sent)
        payload, inner = encode_by(link, state.link, tree, key, own)
        came = structure.flatten_up_to(link.decode(payload, abstract(value)))
        lost = [
            f - c.astype(f.dtype)
            for f, c in zip(full, came, strict=True)
            if is_remembered(f)
        ]
        if numbers is not None and once is not None:
            lost = [
                kept.at[once].set(0, mode="drop").at[numbers].add(x, mode="drop")
                for kept, x in zip(state.rest, lost, strict=True)
            ]
        return payload, _Kept(lost, inner)

    reads = () if rows is None else (rows,)
    return Link(
        init,
        encode,
        link.decode,
        reads=tuple(dict.fromkeys((*reads, *link.reads))),
        strengths=link.strengths,
        check=check_of(link, *by_record) if by_record else link.check,
        pull=link.pull,
    )


def _with_rest(kept: jax.Array, x: jax.Array, once: jax.Array | None) -> jax.Array:
    """A value and what was left out, [batch, ...]; of a record that is there twice, once."""
    if once is not None:
        kept = rows_of(kept, once)
    # A batch of one would be added to all records of another.
    elif kept.shape != x.shape:
        raise ValueError(
            f"a link with `error_feedback` keeps what it left out of {kept.shape}, and "
            f"cannot add it to {x.shape}: batches must have one size."
        )
    # Eight bits are promoted to nothing by themselves.
    return x.astype(kept.dtype) + kept
