"""The memory of a link at the receiver of many clients' messages: one for each client.

Records have numbers of their own at each client, so what is kept of one says nothing of
another's.
"""

from __future__ import annotations

from typing import Protocol

import jax

from jsplit.core.base import PyTree, Receiver, State


class Axis(Protocol):
    """How trees of one client's batch relate to those of the batch of all."""

    def row(self, like: PyTree) -> PyTree:
        """Return the shapes of one client's part."""
        ...

    def repeated(self, memory: PyTree) -> PyTree:
        """Return the first memory of each client."""
        ...

    def join(self, tree: PyTree) -> PyTree:
        """Put the batches of all together."""
        ...


def receiver_of_each(axis: Axis, one: Receiver) -> Receiver:
    """Return one client's receiver, run once for each client.

    Args:
        axis: of all clients.
        one: of one client's link.
    """

    def init(like: PyTree) -> State:
        return axis.repeated(one.init(axis.row(like)))

    def decode(state: State, payload: PyTree, like: PyTree) -> tuple[PyTree, State]:
        # Shapes cannot be mapped over, so they are closed over.
        row = axis.row(like)
        values, state = jax.vmap(lambda s, p: one.decode(s, p, row))(state, payload)
        return axis.join(values), state

    return Receiver(init, decode, jax.vmap(one.mirror))
