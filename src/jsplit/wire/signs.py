"""Signs of life: what each party is at, so that who computes is told from who is away.

A party says to the lead what it is at; the lead says of all to everybody, since parties
that wait for each other need not have a connection. A sign is a state, like all that
control frames say; its number tells one that is new from one that is passed on again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jsplit.wire.control import is_number
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.json_types import Json
from jsplit.wire.terms import Terms


@dataclass(frozen=True)
class Sign:
    """What a party was at when it said so.

    Attributes:
        number: of this sign, among those of its process.
        epoch: that it is in.
        step: how many steps it has finished.
        computes: whether it is at work of its own; else it waits for others.
    """

    number: int
    epoch: int
    step: int
    computes: bool

    @property
    def progress(self) -> tuple[int, int]:
        """What grows as a run goes on."""
        return self.epoch, self.step


def words_of(signs: Mapping[int, Sign]) -> dict[str, object]:
    """Signs as a frame says them, by the places of parties; `signs_of` is the inverse.

    Args:
        signs: by place.
    """
    # JSON has no number for a key.
    each = {
        str(place): [sign.number, sign.epoch, sign.step, sign.computes]
        for place, sign in signs.items()
    }
    return {"signs": each}


def signs_of(
    found: Mapping[str, Json], terms: Terms, sender: int, lead: int
) -> dict[int, Sign]:
    """The signs that a frame holds.

    Args:
        found: what the frame holds, as JSON.
        terms: of the run.
        sender: who has sent it.
        lead: who may speak for others.

    Raises:
        RemoteProtocolError: if it says nothing sensible, or speaks for another party.
    """
    who, said = terms.name(sender), found.get("signs")
    if not isinstance(said, dict):
        raise RemoteProtocolError(f"`{who}` does not say what it is at.")
    places = {str(place): place for place in range(len(terms.parties))}
    signs: dict[int, Sign] = {}
    for name, entry in said.items():
        place = places.get(name)
        if place is None or sender not in (place, lead):
            raise RemoteProtocolError(f"`{who}` may not say what others are at.")
        signs[place] = _read(entry, terms, who)
    return signs


def _read(entry: Json, terms: Terms, who: str) -> Sign:
    wrong = RemoteProtocolError(f"`{who}` does not say what it is at.")
    if not isinstance(entry, list) or len(entry) != 4:
        raise wrong
    number, epoch, step, computes = entry
    if not (is_number(number) and is_number(epoch) and isinstance(computes, bool)):
        raise wrong
    # No party can go on for ever by saying that it does.
    if not is_number(step, terms.steps + 1):
        raise wrong
    return Sign(number, epoch, step, computes)
