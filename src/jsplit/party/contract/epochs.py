"""Epochs, as an agreement says them: steps of each, what is validated after it, who decides.

An epoch is a pass over the records, whose order is a function of (seed, pass); where clients
take turns, once round their order. After it all validate together, and one party tells the
others its verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jsplit.core.checks import as_positive_int, shown
from jsplit.party.contract.entries import Rotation
from jsplit.party.contract.turns import Turns
from jsplit.party.contract.turns_check import steps_around

VALIDATION = "validation"
"""In the place of a client, where parties say how many records they have of each."""


@dataclass(frozen=True)
class Epochs:
    """What parties agree on of epochs; in the file a dictionary of these entries.

    Attributes:
        steps: of an epoch.
        validation: how many records all validate with after it; 0: none.
        decides: the party that says which epoch is the best, and when to end; a role
            where clients take turns.
        tells: the column of its history whose number it tells all others; "": none.

    Example:
        >>> from jsplit.party.contract.epochs import Epochs
        >>> Epochs(steps=3, validation=64, decides="hospital").tells
        ''
    """

    steps: int
    validation: int
    decides: str
    tells: str = ""

    def batches(self, size: int) -> int:
        """How many batches of a size the validation has."""
        return -(-self.validation // size)

    def size_of(self, batch: int, size: int) -> int:
        """How many records one of these batches has."""
        return min(size, self.validation - batch * size)

    def decider(self, turns: Turns) -> str:
        """The party that decides: who plays the role in the turn that ends an epoch."""
        return turns.party_of_role(self.decides, turns.client(self.steps - 1))

    def last_of(self, step: int) -> bool:
        """Whether a step is the last one of an epoch."""
        return (step + 1) % self.steps == 0


def epochs(
    count: int,
    *,
    records: int | None = None,
    validation: int = 0,
    decides: str | None = None,
    tells: str = "",
) -> dict[str, object]:
    """Say that parties train by epochs, for `epochs=` of `jsplit.party.agreement`.

    An epoch is a pass over all records, without the last ones that fill no batch, which are
    others in each. After it all measure the validation data together, and one party
    decides whether it was the best so far, and whether to end.

    Where clients take turns an epoch is once round their order. At its end all take what
    was learned, and the client whose turn ends it validates, with those always there.

    Args:
        count: how many epochs there are.
        records: how many records all train on; not where clients take turns, whose
            order says it.
        validation: how many they validate with; 0: none, and what is compared is the
            loss of training.
        decides: the party that decides, which computes a loss or a metric: as a rule
            the one with the labels; by default the one of the first loss that counts.
            Where clients take turns a role, of which the client decides that validates.
        tells: a column of its history, as `"val_auc"`, whose number it tells all after
            each epoch. By default none: a number that was measured on labels says
            something of them.

    Returns:
        What `agreement` takes.

    Raises:
        ValueError: naming the argument that is not as it must be.

    Example:
        >>> import jsplit
        >>> jsplit.party.epochs(4, records=96, validation=64)["validation"]
        64
    """
    as_positive_int("count", count)
    if records is not None:
        as_positive_int("records", records)
    if validation:
        as_positive_int("validation", validation)
    return {
        "count": count,
        "records": records,
        "validation": validation,
        "decides": decides,
        "tells": tells,
    }


_GIVEN = {"count", "records", "validation", "decides", "tells"}


def drafted(
    given: Mapping[str, object] | None,
    steps: int | None,
    checkpoint: int | None,
    size: int,
    losses: object,
    around: int | None = None,
) -> dict[str, object]:
    """The entries `steps`, `checkpoint` and `epochs` of an agreement.

    Args:
        given: as `epochs` gives it; `None` for a run that is one stretch of steps.
        steps: of the run, where it is one.
        checkpoint: steps between two checkpoints; by default 100, or those of an epoch.
        size: of a batch.
        losses: the entries of the losses, of which the first decides by default.
        around: steps once round the order of clients that take turns.

    Raises:
        ValueError: naming the argument.
    """
    if given is None:
        if steps is None:
            raise ValueError("`steps` must be given, or `epochs`.")
        every = 100 if checkpoint is None else checkpoint
        return {"steps": steps, "checkpoint": every, "epochs": None}
    if steps is not None:
        raise ValueError("`steps` follows from `epochs`: give one of the two.")
    if not isinstance(given, Mapping) or given.keys() != _GIVEN:
        raise ValueError(
            f"`epochs` must be what `jsplit.party.epochs` gives, got {shown(given)}."
        )
    count = as_positive_int("count", given["count"])
    each = _steps_of(given["records"], size, around)
    decides = given["decides"]
    if decides is None and isinstance(losses, list):
        counting = [x for x in losses if x["weight"]] or losses
        decides = counting[0]["party"] if counting else None
    said = {
        "steps": each,
        "validation": given["validation"],
        "decides": decides,
        "tells": given["tells"],
    }
    every = each if checkpoint is None else checkpoint
    return {"steps": count * each, "checkpoint": every, "epochs": said}


def _steps_of(records: object, size: int, around: int | None) -> int:
    """How many steps an epoch has: a pass over records, or once round an order."""
    if around is not None:
        if records is not None:
            raise ValueError(
                "`records` of `epochs` is given, and clients take `turns`: an epoch is "
                "once round their `order`."
            )
        return around
    if records is None:
        raise ValueError(
            "`records` of `epochs` must say how many records all train on."
        )
    count = as_positive_int("records", records)
    if count < size:
        raise ValueError(f"`records` of `epochs` is {count}, and a batch takes {size}.")
    return count // size


def epochs_of(said: object) -> Epochs | None:
    """The record that an entry of an agreement stands for.

    Raises:
        ValueError: naming the entry that is not as it must be.
    """
    if said is None:
        return None
    names = {"steps", "validation", "decides", "tells"}
    if not isinstance(said, Mapping) or said.keys() != names:
        raise ValueError(
            f"`epochs` must have {', '.join(sorted(names))}, got {shown(said)}."
        )
    numbers = {"steps": said["steps"], "validation": said["validation"]}
    for name, least in (("steps", 1), ("validation", 0)):
        # `type`: in JSON `true` would count as the number 1.
        if type(numbers[name]) is not int or numbers[name] < least:
            raise ValueError(
                f"`{name}` of `epochs` must be an integer from {least} on, got "
                f"{shown(numbers[name])}."
            )
    texts = {"decides": said["decides"], "tells": said["tells"]}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"`{name}` of `epochs` must be a text, got {shown(text)}.")
    return Epochs(**numbers, **texts)


class _Party(Protocol):
    """What a party computes, as far as it is asked for here."""

    @property
    def party(self) -> str: ...


class _Agreed(Protocol):
    """An agreement, as far as it is looked at here."""

    @property
    def steps(self) -> int: ...
    @property
    def checkpoint(self) -> int: ...
    @property
    def epochs(self) -> Epochs | None: ...
    @property
    def rotation(self) -> Rotation | None: ...
    @property
    def losses(self) -> Sequence[_Party]: ...
    @property
    def metrics(self) -> Sequence[_Party]: ...


def check_epochs(agreed: _Agreed) -> None:
    """Refuse epochs that do not go with what else was agreed.

    Raises:
        ValueError: naming both.
    """
    found = agreed.epochs
    if found is None:
        return
    if agreed.rotation is not None:
        _check_turns(found, agreed.rotation)
    if agreed.steps % found.steps:
        raise ValueError(
            f"`steps` is {agreed.steps}, which is no number of epochs of {found.steps}."
        )
    # The verdict is on what all have on disk, and every epoch must end there.
    if found.steps % agreed.checkpoint:
        raise ValueError(
            f"`checkpoint` is {agreed.checkpoint}, which does not divide the "
            f"{found.steps} steps of an epoch: all save their state at the end of each."
        )
    measuring = {x.party for x in (*agreed.losses, *agreed.metrics)}
    if found.decides not in measuring:
        raise ValueError(
            "`decides` of `epochs` must be a party that computes a loss or a metric, one "
            f"of {', '.join(sorted(measuring))}, got {found.decides!r}."
        )


def _check_turns(epochs: Epochs, turns: Rotation) -> None:
    """Refuse turns by which an epoch is not what it must be at all parties."""
    cycle = steps_around(turns.order)
    if epochs.steps != cycle:
        raise ValueError(
            f"`steps` of `epochs` is {epochs.steps}, and `order` of `turns` goes round in "
            f"{cycle}: an epoch is once round."
        )
    if turns.missing == "skip":
        raise ValueError(
            '`epochs` goes with `missing="wait"` of `turns` alone: an epoch of which a '
            "client was passed over would be of fewer records, and its validation of "
            "another client's."
        )
    if epochs.validation and turns.handoff == "none":
        raise ValueError(
            '`validation` of `epochs` does not go with `handoff="none"` of `turns`: each '
            "client keeps a model of its own, and one alone would be measured. Leave it "
            "out, or let what was learned be handed over."
        )
    if VALIDATION in turns.clients:
        raise ValueError(
            f"`clients` of `turns` must not name one `{VALIDATION}` where there are epochs."
        )
