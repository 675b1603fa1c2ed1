"""How a party's programs meet its connections.

Programs send and take pytrees on wires; an exchange carries arrays, by
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.trees import describe
from jsplit.party.contract.turns import Turns
from jsplit.training.config import Config
from jsplit.training.crossing import Packet, packet
from jsplit.training.kinds import WireKind
from jsplit.training.verdicts import NotFinite
from jsplit.training.walk import Wire

_Arrays = Sequence[ArrayLike]


class Exchange(Protocol):
    """How a party sends and receives arrays.

    Every method is told the place of a wire in the agreement, the step
    and the micro-batch.
    """

    def send(self, wire: int, step: int, micro: int, arrays: _Arrays) -> None:
        """Send the arrays; does not wait until they have come."""
        ...

    def there(self, wire: int, step: int, micro: int) -> bool:
        """Whether the arrays have come."""
        ...

    def take(self, wire: int, step: int, micro: int) -> _Arrays:
        """The arrays; waits for them."""
        ...

    def wait(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Wait until the arrays of one of several wires have come."""
        ...


def structure_and_shapes(tree: PyTree) -> tuple:
    """The structure, shapes and dtypes of a pytree, to be compared."""
    # A dtype may be given as a type, as `jnp.float32` is: made one
    # form.
    leaves = [(x.shape, jnp.dtype(x.dtype)) for x in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), tuple(leaves)


class _Known(Protocol):
    """What a party knows of all wires."""

    turns: Turns
    config: Config
    wires: list[Wire]
    unread: dict[Wire, frozenset[int]]

    def like(self, wire: int, size: int) -> tuple[PyTree, PyTree]: ...


class Wires:
    """The wires of one step.

    Args:
        local: what the party knows of all wires.
        exchange: what carries their arrays.
        step: which step.
        size: how many examples a micro-batch of it has.
    """

    def __init__(self, local: _Known, exchange: Exchange, step: int, size: int):
        self.local, self.exchange, self.step, self.size = local, exchange, step, size

    def at(self, wire: Wire) -> int:
        """The place of a wire among all crossings: each client's are its own."""
        # So frames of two clients in one role never meet.
        wires = self.local.wires
        return self.local.turns.client(self.step) * len(wires) + wires.index(wire)

    def send(self, micro: int, wire: Wire, value: PyTree) -> None:
        """Send what a program gave, if it has the shapes that were agreed on."""
        payload = value.payload if isinstance(value, Packet) else value
        wanted, _ = self.local.like(self.local.wires.index(wire), self.size)
        leaves, structure = jax.tree.flatten(payload)
        # Only the structure: the session compares the shapes, once for every frame.
        # The receiver would refuse it too, but the fault is here: it is told here.
        if structure != jax.tree.structure(wanted):
            raise ValueError(
                f"{wire.kind} `{wire.what}` is {describe(payload)}, the agreement says "
                f"{describe(wanted)}."
            )
        if self.local.config.nonfinite == "refuse" and wire.kind != WireKind.SCALAR:
            for x in leaves:
                # Its receiver would find it too, and could name nobody but this party. No
                # function of Python is called for it: this runs for every value.
                array = np.asarray(x)
                if (
                    array.dtype.kind not in "biu"
                    and False in np.isfinite(array).ravel()
                ):
                    raise NotFinite(
                        f"{wire.kind} `{wire.what}` of step {self.step} is not finite "
                        "where it is computed."
                    )
        self.exchange.send(self.at(wire), self.step, micro, leaves)

    def take(self, micro: int, wire: Wire) -> PyTree:
        """The value that a program reads; waits for it."""
        payload, value = self.local.like(self.local.wires.index(wire), self.size)
        arrays = self.exchange.take(self.at(wire), self.step, micro)
        # Structures never cross: both ends know them from the
        # agreement.
        found = jax.tree.unflatten(jax.tree.structure(payload), arrays)
        linked = (wire.kind, wire.what) in self.local.config.links
        # Most messages are their value: for them no tree is looked at.
        if linked or wire in self.local.unread:
            return packet(self.local.config, wire, found, value)
        return found

    def there(self, wire: Wire, micro: int) -> bool:
        """Whether the message of a micro-batch has come."""
        return self.exchange.there(self.at(wire), self.step, micro)

    def wait(self, wanted: Iterable[tuple[Wire, int]]) -> None:
        """Wait until one of several messages has come."""
        self.exchange.wait([(self.at(w), self.step, m) for w, m in wanted])
