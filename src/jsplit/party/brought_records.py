"""The records that a party brings, by client: its fields, its ids, and their digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import jax
import numpy as np

from jsplit.core.base import Link, PyTree
from jsplit.core.trees import batch_of
from jsplit.party.compute.payloads import needed_entries
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.field_types import check_dtypes
from jsplit.party.contract.ids_key import key_of, secret_of, told
from jsplit.party.contract.record_order import Id, Records, check_weights
from jsplit.party.process import of_client
from jsplit.party.task import Brought, Data, Task


def records_of(
    agreed: Agreement,
    party: str,
    fields: Sequence[str],
    brought: Brought,
    alone: bool,
    training: bool,
) -> dict[str, Records]:
    """A party's records, by client: its own, or of each if it is always there.

    Records that are not trained on count alike where nothing is said of it, whatever they
    do in training; in training all say it.

    Raises:
        ValueError: naming the field or the client that is missing, or `ids_key`.
    """
    data, ids = brought.data, brought.ids
    secret = secret_of(brought.ids_key)
    turns = agreed.turns
    own = turns.client_of(party)
    clients = turns.names if own is None else (turns.names[own],)
    # A party without fields gives nothing by client, and a function of the step is of
    # whose turn it is.
    takes_turns = agreed.rotation is not None and own is None
    by_client = takes_turns and not callable(data) and bool(fields)
    found = {}
    for client in clients:
        given: Data = {} if data is None else data
        if by_client and not callable(given):
            if client not in given:
                raise ValueError(
                    f"`data` lacks the client `{client}`: "
                    f"`{party}` holds fields of each."
                )
            given = given[client]
        if not callable(given):
            if not training:
                given = _counting(given, fields, agreed.weight)
            given = _chosen(given, fields, party, client)
            check_dtypes(agreed.fields, given, party)
        its = ids
        if isinstance(ids, Mapping) and own is None:
            if client not in ids:
                raise ValueError(f"`ids` lacks those of the client `{client}`.")
            its = ids[client]
        # Of a client they are one's own, and never by client.
        found[client] = Records(
            given,
            cast("Iterable[Id] | None", its),
            key=key_of(agreed.schema, secret),
            secret=bool(secret),
            weight=agreed.weight,
        )
        found[client].digest = told(found[client], client, alone=alone)
    return found


def is_alone(
    agreed: Agreement, task: Task, links: Mapping[tuple[str, str], Link]
) -> bool:
    """Whether at most one party brings records to a task, so that none are compared.

    Args:
        agreed: what the parties have agreed on.
        task: what all are at.
        links: by kind of message and name of the value; one may read a field.
    """
    topology = agreed.topology_of_strangers
    having = [
        r
        for r in topology.parties
        if needed_entries(topology, r, task.kind, agreed.weight, links)
    ]
    # The same at all, also at one that gives ids and needs no field: of two that are
    # compared none may say nothing.
    return len(having) < 2


def _counting(
    given: Mapping[str, PyTree], fields: Sequence[str], weight: str
) -> Mapping[str, PyTree]:
    """What a party gives, with a weight of 1 for each record where it says none."""
    others = {field: given[field] for field in fields if field in given}
    # Without any field nothing says how many there are, and `_chosen` names what is missing.
    if weight not in fields or weight in given or not others:
        return given
    return {**given, weight: np.ones(batch_of(others), np.float32)}


def _chosen(
    given: Mapping[str, PyTree], fields: Sequence[str], party: str, client: str
) -> dict[str, PyTree]:
    """The fields that a task needs, of those that a party gives.

    Raises:
        ValueError: naming the one that is missing.
    """
    for field in fields:
        if field not in given:
            raise ValueError(
                f"`data`{of_client(client)} lacks the field `{field}`, "
                f"which `{party}` holds; it has {', '.join(given) or 'none'}."
            )
    return {field: given[field] for field in fields}


def example_of(records: Records, weight: str, size: int) -> dict[str, PyTree]:
    """Fields from which a party's first state can be made: shapes alone, if possible.

    Args:
        records: of one client.
        weight: the entry with how much each record counts, if there is one.
        size: how many records a step has.
    """
    if records.batches:
        first = records.given(0)
        if weight in first:
            check_weights(weight, first[weight], size)
    else:
        first = {f: jax.tree.map(lambda x: x[:1], v) for f, v in records.fields.items()}
    shapes = {}
    for field, x in first.items():
        # The size of a batch is the agreement's, so one record says all; only a field
        # that is a tree of arrays must be looked at as it is.
        if hasattr(x, "dtype"):
            shapes[field] = jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), x.dtype)
    return shapes if len(shapes) == len(first) else first
