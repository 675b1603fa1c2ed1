"""What leaks at a cut, as `plan` is told: a number or a score, by a function or by cut.

This room knows no attack. Whatever has a `value` is a score, and what else it says of that
value (the measure, the interval, which way it points) is kept if it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

from jsplit.core.checks import shown
from jsplit.slicing.cut_point import CutPoint


class Leak(NamedTuple):
    """What leaks at one cut.

    Attributes:
        value: The number.
        larger_leaks: Whether a larger one is a larger leak; of an error it is not.
        measure: What it is, as "AUC"; empty if nobody has said.
        interval: Within which it lies, if that was said.
        chance: What a guess gets, if that was said.
        doubt: Why more may leak than that; empty if nobody has said so.
    """

    value: float
    larger_leaks: bool = True
    measure: str = ""
    interval: tuple[float, float] | None = None
    chance: float | None = None
    doubt: str = ""


@runtime_checkable
class Scored(Protocol):
    """A number with what is known of it, as a `jsplit.privacy.Score`."""

    @property
    def value(self) -> float: ...


@runtime_checkable
class Found(Protocol):
    """A score at a cut, as a `jsplit.privacy.Finding`."""

    @property
    def cut(self) -> str: ...

    @property
    def score(self) -> Scored: ...


Number: TypeAlias = "float | Scored | None"
Leakage: TypeAlias = (
    "Callable[[CutPoint], Number] | Mapping[str, Number] | Sequence[Found]"
)
"""What `plan` takes: a function of a cut, or scores by its name; `None` for no score."""


def check_leakage(given: Leakage | None) -> Leakage | None:
    """Refuse what gives no score of a cut.

    Args:
        given: the argument of `plan`.

    Returns:
        The same, findings by the name of their cut.

    Raises:
        ValueError: if it is none of these, or has two scores of one cut.
    """
    if given is None or callable(given):
        return given
    if isinstance(given, Mapping):
        # A point may stand for its name, which is what there is one of.
        named = cast("Mapping[str | CutPoint, Number]", given)
        names = [k.name if isinstance(k, CutPoint) else k for k in named]
        if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
            raise ValueError(
                f"`leakage` has several scores of the cut {shown(twice[0])}: as a point, "
                "and by its name."
            )
        return dict(zip(names, named.values(), strict=True))
    found = [*given] if isinstance(given, (list, tuple)) else []
    if not found or not all(isinstance(f, Found) for f in found):
        raise ValueError(
            "`leakage` must be a function of a CutPoint, scores by the name of a cut, or "
            f"findings of a report, got {shown(given)}."
        )
    return _by_cut(cast("list[Found]", found))


def _by_cut(found: Iterable[Found]) -> dict[str, Number]:
    scores: dict[str, Number] = {}
    for f in found:
        if f.cut in scores:
            raise ValueError(
                f"`leakage` has several findings at the cut `{f.cut}`: leave those of one "
                "adversary and one target."
            )
        scores[f.cut] = f.score
    return scores


def leaks_at(
    leakage: Leakage | None, points: Sequence[CutPoint]
) -> dict[str, Leak | None]:
    """What leaks at each point.

    Args:
        leakage: as `check_leakage` gives it.
        points: the places to choose from.

    Returns:
        By name; `None` where nothing is known.

    Raises:
        ValueError: if a score is of no point, no number, or they are not of one measure.
    """
    names = [p.name for p in points]
    if leakage is None:
        return dict.fromkeys(names)
    if isinstance(leakage, Mapping):
        scores = cast("Mapping[str, Number]", leakage)
        if other := [k for k in scores if k not in names]:
            raise ValueError(
                f"`leakage` names {shown(other[0])}, where no cut is planned; there are "
                f"{', '.join(names)}."
            )
        found = {n: _leak(scores.get(n), n) for n in names}
    else:
        score = cast("Callable[[CutPoint], Number]", leakage)
        found = {p.name: _leak(score(p), p.name) for p in points}
    kinds = {(x.measure, x.larger_leaks) for x in found.values() if x is not None}
    if not kinds:
        raise ValueError("`leakage` gives no score at any cut point.")
    if len(kinds) != 1:
        got = " and ".join(sorted(m or "plain numbers" for m, _ in kinds))
        raise ValueError(
            f"`leakage` must give scores of one measure to be compared, got {got}."
        )
    return found


def _leak(given: Number, cut: str) -> Leak | None:
    if given is None:
        return None
    value = getattr(given, "value", given)
    try:
        number = float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    # NaN is neither better nor worse than any score, so it would put a point on the front;
    # of infinite ones all are alike, and no picture has a place for them.
    if isinstance(value, bool) or not isfinite(number):
        raise ValueError(
            f"`leakage` must give finite numbers, got {shown(value)} for the cut point "
            f"`{cut}`."
        )
    doubt = str(getattr(given, "doubt", ""))
    leak = Leak(
        number,
        bool(getattr(given, "larger_leaks", True)),
        str(getattr(given, "measure", "")),
        getattr(given, "interval", None),
        getattr(given, "chance", None),
        f"not converged: {doubt}" if doubt else "",
    )
    return _guessed(leak)


def _guessed(leak: Leak) -> Leak:
    """At least what a guess gets: an attack that does worse protects nobody."""
    chance = leak.chance
    if chance is None or not isfinite(chance):
        return leak._replace(chance=None)
    better = leak.value > chance if leak.larger_leaks else leak.value < chance
    if better or leak.value == chance:
        return leak
    said = f"no attack did better than a guess; the best reached {leak.value:.3g}"
    doubt = "; ".join(filter(None, (said, leak.doubt)))
    return leak._replace(value=chance, interval=None, doubt=doubt)
