"""The batches of a run, for whoever has all records: the order that parties follow, in one process.

What a run over the network computes can so be computed again, by `jsplit.messages` or by the
whole model, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jsplit.core.base import PyTree
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.records import Records, places_of


def batches(
    agreed: Agreement, fields: Mapping[str, PyTree], ids: Sequence[str | int]
) -> Callable[[int], Mapping[str, PyTree]]:
    """Give the batch of every step of a run, as parties that have these records take it.

    Each party sorts its records by id and shuffles them by the agreed seed, anew in every pass.
    This does the same with all fields together. It is for runs without turns, in which all
    parties have one set of records.

    Args:
        agreed: the agreement; its batch size and seed count.
        fields: by name, arrays of [record, ...].
        ids: of the records, in the same order.

    Returns:
        A function of the step, from 0 on, that gives the fields of its batch, [batch, ...].

    Raises:
        ValueError: if there is not one id for each record, or one is there twice.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, jsplit
        >>> bottom = jsplit.segment(lambda x: x, inputs=["x"], name="h")
        >>> top = jsplit.segment(lambda h: h, inputs=["h"], name="y")
        >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: (y - label) ** 2)
        >>> fields = {"x": np.arange(6.0), "label": np.arange(6.0)}
        >>> first = {name: x[:3] for name, x in fields.items()}
        >>> agreed = jsplit.party.agreement(
        ...     topology, first, steps=2, addresses={"server": "localhost:8476"}
        ... )
        >>> batch = jsplit.party.batches(agreed, fields, ids=list("fedcba"))
        >>> sorted([*batch(0)["x"], *batch(1)["x"]]) == [*range(6)]
        True
    """
    records = Records(fields, ids)
    count = len(ids)
    size, seed = agreed.batch, agreed.seed

    def batch(step: int) -> Mapping[str, PyTree]:
        # The places are of the sorted order, as at every party: `take` sorts.
        return records.take(places_of(step, count, size, seed))

    return batch
