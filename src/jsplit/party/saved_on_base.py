"""A checkpoint of a party that trains, read on the base that the party has now."""

from __future__ import annotations

from pathlib import Path

from jsplit.core.base import PartyState, TrainState
from jsplit.core.checkpoint import restore
from jsplit.party.base import Base
from jsplit.party.folder import at
from jsplit.training.base_hash import OtherBase


def saved_on_base(
    folder: Path, step: int, party: str, like: PartyState, base: Base | None
) -> PartyState:
    """The state of a step, as it was saved.

    Args:
        folder: of the party.
        step: of the checkpoint.
        party: whose it is.
        like: a state of the party, for shapes and dtypes.
        base: what no step changes of it.

    Raises:
        OtherBase: if it was trained on another base.
        ValueError: if the checkpoint is damaged, or of another model.
    """
    slim = like if base is None else base.slim(like)
    try:
        found = restore(at(folder, step), TrainState({party: slim})).parties[party]
    except ValueError:
        if base is None or not base.at.frozen:
            raise
        # Older versions wrote the base with every step.
        return _older(folder, step, party, like, base)
    where = f"the checkpoint of step {step} in {folder}"
    try:
        return found if base is None else base.on(found, where)
    except OtherBase as error:
        raise _with_cure(str(error), folder) from None


def _older(
    folder: Path, step: int, party: str, like: PartyState, base: Base
) -> PartyState:
    found = restore(at(folder, step), TrainState({party: like})).parties[party]
    if not base.same(found):
        where = f"the checkpoint of step {step} in {folder}"
        raise _with_cure(f"{where} was trained on other frozen parameters.", folder)
    return found


def _with_cure(what: str, folder: Path) -> OtherBase:
    return OtherBase(
        f"{what} Start it with the weights that it began with, by the segments or "
        f"`state`; {folder / 'base'} has them. Or give another folder."
    )
