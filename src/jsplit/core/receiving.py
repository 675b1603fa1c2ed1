"""What a link does where a value arrives: it decodes, and keeps what it must know the next time.

A link without a memory at its receiver decodes by what came alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jsplit.core.base import Link, PyTree, State
from jsplit.core.link import Receiver
from jsplit.core.typed_jax import eval_shape


def decode_by(
    link: Link, state: State, payload: PyTree, like: PyTree
) -> tuple[PyTree, State]:
    """The value that a link makes of a payload, and the receiver's new memory.

    Args:
        link: which decodes.
        state: the receiver's memory; goes through as it is where the link has none.
        payload: what came.
        like: shapes and dtypes of the value.
    """
    if link.receiver is None:
        return link.decode(payload, like), state
    return link.receiver.decode(state, payload, like)


def remembers(link: Link, *, first: bool = False) -> bool:
    """Whether a link keeps anything from one message to the next, at either end.

    Args:
        link: which may be a chain.
        first: whether of a chain only its first link is looked at.
    """
    if link.receiver is not None and not first:
        return True
    some = jax.ShapeDtypeStruct((2, 3), np.dtype("float32"))
    try:
        state = eval_shape(lambda: link.init(some))
        of_chain = isinstance(state, tuple) and first
        return bool(jax.tree.leaves(state[0] if of_chain and state else state))
    # One that wants a value of another form keeps something of it, most likely.
    except Exception:
        return True


def receiver_of_chain(
    links: Sequence[Link], shapes: Callable[[PyTree], Sequence[PyTree]]
) -> Receiver | None:
    """The memory at the receiver of links in a row, which is that of the last.

    Args:
        links: the first is applied first.
        shapes: of the value that each of them is given, from those of the first.

    Raises:
        ValueError: if one that is not the last has such a memory.
    """
    # It is kept by what its own payload decodes to. A link behind it would change that
    # payload, and the two ends would come apart.
    if any(link.receiver is not None for link in links[:-1]):
        raise ValueError(
            "`links` have a memory at the receiver before another link: it must be the "
            "last. Give it the other one, as in `temporal_differences(quantize(4))`."
        )
    last = links[-1].receiver if links else None
    if last is None:
        return None

    def init(like: PyTree) -> State:
        return last.init(shapes(like)[-1])

    def decode(state: State, payload: PyTree, like: PyTree) -> tuple[PyTree, State]:
        likes = shapes(like)
        value, state = last.decode(state, payload, likes[-1])
        for link, own in zip(links[-2::-1], likes[-2::-1], strict=True):
            value = link.decode(value, own)
        return value, state

    def mirror(state: State) -> State:
        return last.mirror(state[-1])

    return Receiver(init, decode, mirror)
