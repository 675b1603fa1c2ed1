"""What a serving party brings: its segments and state, and records if it holds any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import jax
import numpy as np

from jsplit.core.base import Link, PartyState, PyTree
from jsplit.core.checks import shown
from jsplit.core.ids import Id, listed
from jsplit.core.trees import as_arrays, batch_of
from jsplit.party.base import Base
from jsplit.party.compute.first_state import first_state
from jsplit.party.compute.local import Local
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.placeholders import Own
from jsplit.party.saved_states import SavedStates
from jsplit.party.serving.part import Part
from jsplit.party.serving.words import model_of
from jsplit.party.task import INFERENCE


@dataclass(frozen=True)
class Holding:
    """Records that a serving party looks up by the ids that it is asked for.

    Attributes:
        fields: by name, [record, ...].
        places: by id, the place of a record.
    """

    fields: Mapping[str, PyTree]
    places: Mapping[Id, int]

    def rows(self, ids: Iterable[Id]) -> dict[str, PyTree]:
        """The fields of some records, in the order of the ids.

        Raises:
            ValueError: if it has not all of them; without naming one.
        """
        wanted = listed("ids", ids)
        at = [self.places[i] for i in wanted if i in self.places]
        if len(at) < len(wanted):
            raise ValueError(f"{len(wanted) - len(at)} of the records are not there.")
        rows = np.array(at, int)
        return {f: jax.tree.map(lambda x: x[rows], v) for f, v in self.fields.items()}


def holding_of(data: Mapping[str, PyTree] | None, ids: Iterable[Id] | None) -> Holding:
    """The records of a party, by id.

    Raises:
        ValueError: if there is not one id for each record.
    """
    if not data:
        return Holding({}, {})
    fields = {f: jax.tree.map(np.asarray, x) for f, x in as_arrays(data).items()}
    if ids is None:
        raise ValueError(
            "`ids` must be given with `data`: whoever asks says by them whose records "
            "are meant."
        )
    names, count = listed("ids", ids), batch_of(fields)
    places = {name: i for i, name in enumerate(names)}
    if len(names) != count or len(places) != count:
        raise ValueError(
            f"`ids` must have one id, each once, for each of {count} records, got "
            f"{len(names)}, {len(places)} of them different."
        )
    return Holding(fields, places)


class Brought:
    """What a party serves, or asks, with.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        own: its segments.
        links: of its own, by the names that the agreement gives them.
        state: what it has learned.
        checkpoint: the folder where that is, instead.
        example: its fields, for their shapes, as a checkpoint is read.
        step: of the checkpoint; by default the newest.
        sequence: whether `example` is of sequences, of any length.

    Attributes:
        state: what it has learned.
        model: its step and hash.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        own: Own,
        links: Mapping[str, Link] | None,
        state: PartyState | None,
        checkpoint: str | os.PathLike[str] | None,
        example: Mapping[str, PyTree],
        step: int | None = None,
        *,
        sequence: bool = False,
    ):
        if step is not None and checkpoint is None:
            raise ValueError("`step` is of a `checkpoint`; a `state` is of one step.")
        if (state is None) == (checkpoint is None):
            raise ValueError("`state` or `checkpoint` must be given, and not both.")
        if party not in agreed.parties:
            raise ValueError(
                f"`party` must be one of {', '.join(agreed.parties)}, got {party!r}."
            )
        own = _with_losses(agreed, party, own)
        self.agreed, self.party, self.own, self.links = agreed, party, own, links
        if state is None:
            assert checkpoint is not None
            local = Local(agreed, party, own, INFERENCE, links)
            lacking = sorted({*local.fields("predict")} - {*example})
            if lacking:
                raise ValueError(
                    f"`checkpoint` needs a batch with `{lacking[0]}` beside, for its "
                    "shapes: `example=`, or `data=` of who serves."
                )
            first = {f: example[f] for f in local.fields("predict")}
            # A prompt is not as long as the sequences that were trained on.
            long = _positions(first) if sequence else None
            whose = agreed, local.config, local.party, local.name
            like = first_state(*whose, first, long)
            # Of frozen parameters the folder has one base, and its steps what was trained.
            base = Base(local.layout, like)
            saved = SavedStates(checkpoint, party, agreed.schema, like, base)
            chosen = saved.steps[-1] if step is None else step
            if chosen not in saved.steps:
                raise ValueError(
                    f"`step` must be one of {[*saved.steps]}, of which `checkpoint` has "
                    f"whole states, got {shown(step)}."
                )
            state = saved.restore(chosen)
        self.state, self.model = state, model_of(state)
        self._parts: dict[tuple[str, bool], Part] = {}

    def part(self, asker: str, *, sequence: bool) -> Part:
        """The party's part of calls of one kind; made once.

        Args:
            asker: the role that asks.
            sequence: whether they are pieces of sequences.
        """
        at = (asker, sequence)
        if at not in self._parts:
            self._parts[at] = Part(
                self.agreed,
                self.party,
                self.own,
                self.links,
                self.state,
                self.model,
                asker,
                sequence=sequence,
            )
        return self._parts[at]


def _positions(fields: Mapping[str, PyTree]) -> int | None:
    """How many positions the sequences of a batch have, [batch, positions, ...]."""
    shapes = [np.shape(x) for x in jax.tree.leaves(dict(fields))]
    return shapes[0][1] if shapes and len(shapes[0]) > 1 else None


def _with_losses(agreed: Agreement, party: str, own: Own) -> Own:
    """What a party brings, with something in the place of losses that it leaves out.

    A topology of an agreement has them, and who serves or asks computes none.
    """
    if not isinstance(own, Mapping):
        return own
    role = agreed.turns.role[party]
    entries = (*agreed.losses, *agreed.metrics)
    return {e.name: _no_loss for e in entries if e.party == role} | {**own}


def _no_loss(*_: object) -> NoReturn:
    raise ValueError("a party that serves, or asks, computes no loss.")
