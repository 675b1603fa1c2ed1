"""What a serving party asks of a session before it begins, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jsplit.party.contract.agreement import Agreement
from jsplit.party.serving.part import Part
from jsplit.party.serving.served import Holding
from jsplit.party.serving.words import Model
from jsplit.wire.said import printable


@dataclass(frozen=True)
class Limits:
    """What a serving party takes.

    Attributes:
        sessions: at a time.
        length: positions of a sequence.
        batch: sequences of a session, or records of a call.
        askers: the parties that may ask.
        together: sessions that are computed in one run.
        wait: seconds that a call may wait for others to be computed with.
    """

    sessions: int
    length: int
    batch: int
    askers: tuple[str, ...]
    together: int = 1
    wait: float = 0.0


def checked_opening(
    party: str, asker: str, said: Mapping[str, object], limits: Limits
) -> tuple[int, int]:
    """The batch and the length that a session asks for.

    Args:
        party: that serves.
        asker: who asks, by its certificate.
        said: what its hello holds.
        limits: what is taken.

    Raises:
        ValueError: naming what is beyond them.
    """
    if asker not in limits.askers:
        there = ", ".join(f"`{p}`" for p in limits.askers) or "nobody"
        raise ValueError(f"`{party}` serves {there} alone.")
    batch, length = said.get("batch"), said.get("length")
    # Whoever asks has chosen these. The exact type: `True` is an integer too.
    for name, value, least, most in (
        ("batch", batch, 1, limits.batch),
        ("length", length, 0, limits.length),
    ):
        if type(value) is not int or not least <= value <= most:
            raise ValueError(
                f"`{name}` of a session is at most {most} at `{party}`, "
                f"got {printable(value, 20)}; who serves "
                f"there may give `{name}=` more."
            )
    assert isinstance(batch, int) and isinstance(length, int)
    return batch, length


def check_fields(part: Part, holding: Holding, length: int) -> None:
    """Refuse a session for which a party lacks fields of its own.

    Raises:
        ValueError: naming the field.
    """
    lacking = [f for f in part.needed if f not in holding.fields]
    if lacking:
        raise ValueError(
            f"`{part.party}` needs the field `{lacking[0]}`, and was given no data."
        )
    if part.needed and length:
        raise ValueError(
            f"`{part.party}` has a field of its own, and sequences are of who asks."
        )


def cast_of(agreed: Agreement, asker: str) -> dict[str, str]:
    """By role, who plays it where one client asks."""
    place = agreed.turns.client_of(asker)
    casts = [*agreed.turns.clients.values()]
    own = {} if place is None else dict(casts[place])
    return {r: r for r in agreed.turns.fixed_roles} | own


def answer_of(part: Part, model: Model, holding: Holding) -> dict[str, object]:
    """What a serving party says of itself where a session begins."""
    fields = {f: holding.fields[f] for f in part.needed}
    return {
        "step": model.step,
        "hash": model.hash,
        "cached": part.cached,
        "looks up": bool(part.needed),
        "outputs": part.own_outputs(fields),
    }
