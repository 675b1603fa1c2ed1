"""What a party has seen of a training: the only thing, beside its view, that an attack is given.

An attack is a function of this record. It is given no trainer, no state and no batch, so
it cannot reach what its adversary could not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract, describe


class Traffic(NamedTuple):
    """What crossed to one party, and what it holds itself, record by record.

    Steps are laid one after the other: the records of a step are those at which `step`
    is its number.

    Attributes:
        party: whose it is.
        step: the number of the step, int32 [records]; all 0 of an inference.
        received: activations by value, as the party decoded them, [records, ...].
        returned: cotangents that came to the party, by value, [records, ...].
        sent: activations that it sent, by value, [records, ...].
        gave: cotangents that it sent, by value, [records, ...].
        fields: those that it holds, [records, ...].

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.privacy import Traffic
        >>> step = jnp.repeat(jnp.arange(2), 4)
        >>> seen = Traffic("client", step, returned={"h": jnp.ones((8, 3))})
        >>> seen.returned["h"].shape
        (8, 3)
    """

    party: str
    step: PyTree
    received: Mapping[str, PyTree] = {}
    returned: Mapping[str, PyTree] = {}
    sent: Mapping[str, PyTree] = {}
    gave: Mapping[str, PyTree] = {}
    fields: Mapping[str, PyTree] = {}

    def __repr__(self) -> str:
        # Shapes alone: these are records, and what is printed ends up in logs.
        parts = [
            f"{name} {value}: {describe(abstract(x))}"
            for name in ("received", "returned", "sent", "gave", "fields")
            for value, x in getattr(self, name).items()
        ]
        return f"Traffic of {self.party} ({'; '.join(parts) or 'nothing'})"
