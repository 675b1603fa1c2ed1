"""The records that a party validates with, checked against what was agreed of them.

They are put in one order by their ids and compared as those of training are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jsplit.party.brought_records import is_alone, records_of
from jsplit.party.contract.epochs import VALIDATION
from jsplit.party.contract.record_order import Records
from jsplit.party.crossings_of_run import Frames
from jsplit.party.task import Brought
from jsplit.party.validating import validation_task


def validation_records(
    frames: Frames, brought: Brought, training: Mapping[str, Records]
) -> dict[str, Records]:
    """The records that a party validates with, under `VALIDATION`; none without epochs.

    Args:
        frames: of the run.
        brought: what the party brings.
        training: its records to train on.

    Raises:
        ValueError: naming what is missing, or is not as many as agreed.
    """
    epochs, agreed, party = frames.epochs, frames.agreed, frames.party
    if epochs is None:
        return {}
    said = epochs.epochs
    # Where clients take turns it is the order that says what an epoch is.
    for own in training.values() if agreed.rotation is None else ():
        each = (own.count or 0) // agreed.batch
        if own.count is not None and each != said.steps:
            raise ValueError(
                f"`data` has {own.count} records, {each} batches of {agreed.batch}; the "
                f"agreement says that an epoch has {said.steps}."
            )
    if not said.validation:
        if brought.validation is not None:
            raise ValueError(
                "`validation` is given, and the agreement has none: say how many records "
                "by `validation` of `jsplit.party.epochs`."
            )
        return {}
    if not epochs.validates(party):
        if brought.validation is not None:
            raise ValueError(
                f"`validation` is given by `{party}`, and the client whose turn ends an "
                f"epoch validates: `{agreed.turns.names[epochs.client]}`."
            )
        return {}
    task = validation_task(epochs)
    fields = frames.local.fields(task.kind)
    data = brought.validation
    if data is None and fields:
        raise ValueError(
            f"`validation` must have {', '.join(fields)}: all validate with "
            f"{said.validation} records."
        )
    client = agreed.turns.names[epochs.client]
    if agreed.turns.client_of(party) is None and agreed.rotation is not None:
        # Who is always there brings records by client, of which there is one here.
        data = data and {client: data}
    given = replace(brought, data=data, ids=brought.validation_ids)
    alone = is_alone(agreed, task, frames.local.config.links)
    if agreed.rotation is not None:
        agreed = agreed.of(client)
    [found] = records_of(agreed, party, fields, given, alone, False).values()
    if found.count not in (None, said.validation):
        raise ValueError(
            f"`validation` has {found.count} records, the agreement says "
            f"{said.validation}."
        )
    return {VALIDATION: found}
