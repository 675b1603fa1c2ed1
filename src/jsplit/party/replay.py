"""The batches of a run in one process, for whoever has the records of all.

They come in the order that parties follow, so what a run over the network
computes can be computed again, by `jsplit.messages` or by the whole model,
and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jsplit.core.base import PyTree
from jsplit.core.ids import listed
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.record_order import Id, Records, places_of


def batches(
    agreed: Agreement, fields: Mapping[str, PyTree], ids: Iterable[Id]
) -> Callable[[int], Mapping[str, PyTree]]:
    """Give the batch of every step of a run, as the parties take it.

    Each party sorts its records by id and shuffles them by the agreed seed,
    anew in every pass. This does the same with all fields together. It is
    for runs without turns, in which all parties have one set of records.

    Args:
        agreed: the agreement; its batch size and seed count.
        fields: by name, arrays of [record, ...].
        ids: of the records, in the same order: a list, a column, or anything that
            can be gone through once.

    Returns:
        A function of the step, from 0 on, that gives the fields of its
        batch, [batch, ...].

    Raises:
        ValueError: naming `agreed` if it has turns, `fields` if one is
            missing, is nobody's, or has fewer records than a batch, `ids`
            if there is not one for each record, or one is there twice.

    Examples:
        >>> import numpy as np, jsplit, optax
        >>> bottom = jsplit.segment(lambda x: x, inputs=["x"], name="h")
        >>> top = jsplit.segment(lambda h: h, inputs=["h"], name="y")
        >>> topology = jsplit.vanilla(bottom, top, loss=optax.squared_error)
        >>> fields = {"x": np.arange(6.0), "label": np.arange(6.0)}
        >>> first = {name: x[:3] for name, x in fields.items()}
        >>> agreed = jsplit.party.agreement(
        ...     topology, first, steps=2, addresses={"server": "localhost:8476"}
        ... )
        >>> batch = jsplit.party.batches(agreed, fields, ids=list("fedcba"))
        >>> sorted([*batch(0)["x"], *batch(1)["x"]]) == [*range(6)]
        True
    """
    _check(agreed, fields)
    # The very class that each party makes of its own fields, so the two orders
    # cannot come apart. Its digest is for others to compare: no key is needed.
    # Without ids parties keep the order that they have, and this could not know it.
    records = Records(fields, listed("ids", ids))
    count = records.count or 0
    size, seed = agreed.batch, agreed.seed
    # Here and not at the first step, whose place in no batch is a division by zero.
    if count < size:
        raise ValueError(
            f"`fields` must have the records of one batch of {size} at least, "
            f"got {count}."
        )

    # A function of the step alone, without a position of its own: it may be asked
    # for a step again, or begin at one in the middle, as a run that goes on does.
    def batch(step: int) -> Mapping[str, PyTree]:
        # Places in the order sorted by id, which `take` turns into the order given.
        return records.take(places_of(step, count, size, seed))

    return batch


def _check(agreed: Agreement, fields: Mapping[str, PyTree]) -> None:
    """Refuse what no run without turns could have been made of."""
    # With turns each client has records of its own, of which this knows nothing.
    if agreed.rotation is not None:
        raise ValueError(
            "`agreed` must be an agreement without turns, got one in which "
            f"{', '.join(agreed.turns.names)} take turns."
        )
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"`fields` must be a dictionary by name, got {type(fields).__name__}."
        )
    held = {name for names in agreed.holds.values() for name in names}
    held |= {agreed.weight} - {""}
    if fields.keys() != held:
        raise ValueError(
            f"`fields` must be those that the parties hold, {', '.join(sorted(held))}, "
            f"got {', '.join(map(str, fields)) or 'none'}."
        )
