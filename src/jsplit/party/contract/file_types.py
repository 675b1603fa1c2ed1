"""What the file of an agreement holds: by the name of each entry, its type in JSON.

Whatever was read is looked at in `checks` and `turns_check` first; only
then it has these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from jsplit.party.contract.schema import Words


class TurnsEntry(TypedDict):
    """How clients take turns; `jsplit.party.turns` says what each entry means."""

    clients: dict[str, dict[str, str]]
    # Pairs, of a client and how many steps it takes; JSON has lists
    # alone.
    order: list[list[str | int]]
    handoff: str
    missing: str
    largest: int


class AgreementEntries(TypedDict):
    """The entries of an agreement; `jsplit.party.Agreement` says what each means."""

    format: str
    parties: list[str]
    lead: str
    addresses: dict[str, str]
    holds: dict[str, list[str]]
    # Entries of these two and of `turns` are looked at when records are
    # made of them.
    nodes: list[Mapping[str, object]]
    losses: list[Mapping[str, object]]
    values: dict[str, Words]
    links: dict[str, list[str | None]]
    batch: int
    microbatches: int
    steps: int
    turns: Mapping[str, object] | None
    staleness: int
    seed: int
    checkpoint: int
    patience: float
    nonfinite: str
    identities: dict[str, str]
    hosts: dict[str, str]
    # Since format 3.
    fields: NotRequired[dict[str, str | list[str]]]
    metrics: NotRequired[list[Mapping[str, object]]]
    # By party, and by message in words.
    unread: NotRequired[dict[str, dict[str, list[str]]]]
    # What parties exchange in a step beside values: norms by name, and who gets the loss.
    norms: NotRequired[list[str]]
    wants_loss: NotRequired[list[str]]
    # The entry of every party's data that says how much a record counts; "": none.
    weight: NotRequired[str]
    # A number, or those of a `DynamicScale` by name.
    loss_scale: NotRequired[float | dict[str, float] | None]
    # Seconds; only where it is not the usual number.
    stall: NotRequired[float]
    # Fields that are not secret, and by value what goes with it; only where there is any.
    public: NotRequired[list[str]]
    carried: NotRequired[dict[str, list[str]]]
    # Of a training by epochs, see `contract.epochs`.
    epochs: NotRequired[Mapping[str, object] | None]
