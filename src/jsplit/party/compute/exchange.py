"""How a party's programs meet its connections: wires carry pytrees, an exchange carries arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.trees import describe
from jsplit.party.contract.turns import Turns
from jsplit.training.step import Config, Packet
from jsplit.training.walk import Wire

_Arrays = Sequence[Any]


class Exchange(Protocol):
    """How a party sends and receives: by the place of a wire in the agreement, in a step and micro-batch."""

    def send(self, wire: int, step: int, micro: int, arrays: _Arrays) -> None: ...

    def there(self, wire: int, step: int, micro: int) -> bool:
        """Whether the arrays have come."""
        ...

    def take(self, wire: int, step: int, micro: int) -> _Arrays:
        """The arrays; waits for them."""
        ...

    def wait(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Until the arrays of one of several wires have come."""
        ...


def said_with_structure(tree: PyTree) -> tuple:
    return jax.tree.structure(tree), tuple(
        (x.shape, jnp.dtype(x.dtype)) for x in jax.tree.leaves(tree)
    )


class _Known(Protocol):
    """What a party knows of all wires."""

    turns: Turns
    config: Config
    wires: list[Wire]

    def like(self, wire: int, size: int) -> tuple[PyTree, PyTree]: ...


class Wires:
    """The wires of one step, as pytrees: `Exchange` knows only arrays."""

    def __init__(self, local: _Known, exchange: Exchange, step: int, size: int):
        self.local, self.exchange, self.step, self.size = local, exchange, step, size

    def at(self, wire: Wire) -> int:
        """The place of a wire among all crossings: each client's are its own."""
        wires = self.local.wires
        return self.local.turns.client(self.step) * len(wires) + wires.index(wire)

    def send(self, wire: Wire, micro: int, value: PyTree) -> None:
        payload = value.payload if isinstance(value, Packet) else value
        wanted, _ = self.local.like(self.local.wires.index(wire), self.size)
        leaves, structure = jax.tree.flatten(payload)
        # Only the structure: the session compares the shapes, once for every frame.
        if structure != jax.tree.structure(wanted):
            raise ValueError(
                f"{wire.kind} `{wire.what}` is {describe(payload)}, the agreement says {describe(wanted)}."
            )
        self.exchange.send(self.at(wire), self.step, micro, leaves)

    def take(self, wire: Wire, micro: int) -> PyTree:
        payload, value = self.local.like(self.local.wires.index(wire), self.size)
        found = jax.tree.unflatten(
            jax.tree.structure(payload),
            self.exchange.take(self.at(wire), self.step, micro),
        )
        return (
            Packet(found, value)
            if (wire.kind, wire.what) in self.local.config.links
            else found
        )

    def there(self, wire: Wire, micro: int) -> bool:
        return self.exchange.there(self.at(wire), self.step, micro)

    def wait(self, wanted: Iterable[tuple[Wire, int]]) -> None:
        self.exchange.wait([(self.at(w), self.step, m) for w, m in wanted])
