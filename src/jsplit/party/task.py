"""What a party is to do, and what it brings to it: the arguments of `run` and `infer`.

Each is one record, so that they go through the levels below as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import optax

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.guarding import Guard
from jsplit.party.contract.ids_key import IdsKey
from jsplit.party.contract.placeholders import Own
from jsplit.party.contract.record_order import Batches, Id
from jsplit.wire.certs import Trust

Data: TypeAlias = Mapping[str, PyTree] | Batches
"""A party's fields by name, [record, ...], or `batch(step)`. Where clients take turns, a
party that is always there gives its fields by client."""

Ids: TypeAlias = Iterable[Id] | Mapping[str, Iterable[Id]]
"""Of a party's records, or by client."""


INFERENCE = optax.identity()
"""In the place of an optimizer, where nobody trains: it has no state to restore."""


class TaskKind(StrEnum):
    """What all parties are at."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    PREDICT = "predict"

    # The hash of an enum is a call of Python; that of a string is none.
    __hash__ = str.__hash__


@dataclass(frozen=True)
class Task:
    """What all parties are at, and how much of it there is.

    Attributes:
        kind: of the task.
        steps: how many it has.
        size: how many records go through a program at a time: a micro-batch of
            training, a batch of inference.
        records: of inference, how many there are; the last step has what is left.
    """

    kind: TaskKind
    steps: int
    size: int
    records: int | None = None

    def size_of(self, step: int) -> int:
        """How many records a step has at a time."""
        # Training leaves out the records that fill no batch; inference takes them all.
        if self.records is None:
            return self.size
        return min(self.size, self.records - step * self.size)

    @property
    def said(self) -> str:
        """What parties compare when they meet: who evaluates has nobody who trains."""
        # A plain string, as the other side has it from JSON: what differs is told apart
        # by type as well.
        kind = self.kind.value
        return kind if self.records is None else f"{kind} {self.records}"


@dataclass(frozen=True)
class Brought:
    """What one party brings to a task; `jsplit.party.run` documents each.

    Attributes:
        own: segments and losses.
        credentials: certificate and key.
        data: fields.
        ids: of the records.
        ids_key: what their digest is keyed by.
        optimizer: of its parameters.
        links: of its own, by name.
        backward: how it computes cotangents.
        kernels: how it computes operations.
        watched: what its optimizer's steps tell, as `Config.records`.
        checkpoint: its folder.
        state: to begin with, in the place of a first one.
        keep_replies: whether what was sent is kept until the receiver has it.
        bound: by the name of a value, the largest norm of a record that it takes.
        guard: of its training, over what comes back.
        validation: fields of the records that all validate with.
        validation_ids: of these.
    """

    # These two have no default: without a part there is no party, and encryption is
    # never left out by accident.
    own: Own
    credentials: Trust
    data: Data | None = None
    ids: Ids | None = None
    ids_key: IdsKey | None = None
    optimizer: optax.GradientTransformation | None = None
    links: Mapping[str, Link] | None = None
    backward: str = "residuals"
    kernels: str = "fast"
    checkpoint: str | os.PathLike[str] | None = None
    state: PartyState | None = None
    keep_replies: bool = True
    bound: Mapping[str, float] | None = None
    guard: Guard | None = None
    watched: tuple[str, ...] = ()
    validation: Mapping[str, PyTree] | None = None
    validation_ids: Iterable[Id] | None = None
