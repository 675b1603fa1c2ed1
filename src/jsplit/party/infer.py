"""Forward passes over the network, in inference mode: the mean losses, or the outputs, of some records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.core.checks import as_positive_int
from jsplit.party.connection.network import RolledBack
from jsplit.party.contract.agreement import Agreement
from jsplit.party.durable import newest
from jsplit.party.join import prepare
from jsplit.party.process import Own, Result
from jsplit.wire.certs import Trust


def _infer(
    task: str,
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | None,
    records: int,
    credentials: Trust,
    ids: Sequence[Any] | None,
    state: PartyState | None,
    checkpoint: str | os.PathLike | None,
    links: Mapping[str, Link] | None,
    network: Mapping[str, Any],
) -> Result:
    """Forward passes over all records, in the shared order, `batch` at a time."""
    if (state is None) == (checkpoint is None):
        raise ValueError("`state` or `checkpoint` must be given, and not both.")
    if callable(data):
        raise ValueError(
            f"`data` must be fields by name to {task}, not a function of the step."
        )
    size, records = agreed["batch"], as_positive_int("records", records)
    steps = -(-records // size)

    def size_of(step: int) -> int:
        return min(size, records - step * size)

    given = {
        "credentials": credentials,
        "data": data,
        "ids": ids,
        "links": links,
        "optimizer": optax.identity(),
    }
    with prepare(
        agreed, party, own, f"{task} {records}", steps, size_of, state=state, **given
    ) as ready:
        [mine] = ready.records.values()
        if mine.count not in (None, records):
            raise ValueError(
                f"`records` is {records}, `{'data' if mine.fields else 'ids'}` has {mine.count}."
            )
        if checkpoint is not None:
            state = newest(checkpoint, party, agreed.schema, ready.disk.restore(0))
        assert state is not None
        work = ready.local.predict if task == "predict" else ready.local.evaluate
        with ready.connected(**network) as me:
            while True:
                me.network.start()
                try:
                    found = []
                    for step in range(steps):
                        batch = mine.take(
                            np.arange(step * size, step * size + size_of(step))
                        )
                        found.append(
                            jax.tree.map(
                                np.asarray,
                                work(state, batch, step, size_of(step), me.network),
                            )
                        )
                        me.network.finished(step)
                    me.network.durable([0, steps])
                    me.network.until(
                        lambda: me.network.member.committed >= steps,
                        "all to be done",
                        agreed.parties,
                    )
                    me.network.leave("", me.network.awaited())
                    break
                except RolledBack:
                    continue
        if task == "predict":
            outputs = jax.tree.map(lambda *x: np.concatenate(x), *found)
            return Result(state, int(state.step), outputs=mine.back(outputs))
        weights = np.array([size_of(s) for s in range(steps)]) / records
        means = {
            n: float(sum(w * x[n] for w, x in zip(weights, found, strict=True)))
            for n in found[0]
        }
        return Result(state, int(state.step), means)


def evaluate(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | None = None,
    *,
    records: int,
    credentials: Trust,
    ids: Sequence[Any] | None = None,
    state: PartyState | None = None,
    checkpoint: str | os.PathLike | None = None,
    links: Mapping[str, Link] | None = None,
    **network: Any,
) -> Result:
    """The means of all losses over some records, in inference mode; every party calls it at the same time.

    Args:
        records: how many there are, as all parties must say.
        state: of this party, as from `run`; or `checkpoint`: its folder, of which the newest is taken.
        agreed, party, own, data, credentials, ids, links, network: as for `run`; where clients take turns, `agreed.of(client)`.

    Returns:
        A `Result` with the means of the losses that this party computes.
    """
    return _infer(
        "evaluate",
        agreed,
        party,
        own,
        data,
        records,
        credentials,
        ids,
        state,
        checkpoint,
        links,
        network,
    )


def predict(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Mapping[str, PyTree] | None = None,
    *,
    records: int,
    credentials: Trust,
    ids: Sequence[Any] | None = None,
    state: PartyState | None = None,
    checkpoint: str | os.PathLike | None = None,
    links: Mapping[str, Link] | None = None,
    **network: Any,
) -> Result:
    """The outputs of the nodes that no other node reads, for some records; every party calls it at the same time.

    Args:
        as for `evaluate`.

    Returns:
        A `Result` with the outputs that this party computes, in the order in which it gave its records, or their ids if it
        has no field of them; without ids in the order that all share, by the ids of the others if these have any.
    """
    return _infer(
        "predict",
        agreed,
        party,
        own,
        data,
        records,
        credentials,
        ids,
        state,
        checkpoint,
        links,
        network,
    )
