"""Outcomes as JSON and back. What is not finite is text there, which JSON has no number for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import cast

from jsplit.privacy.measures.batched import Dependence
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.probes import Probe
from jsplit.privacy.reporting.pictures import Picture
from jsplit.privacy.reporting.records import Exposure, Finding, Outcome, Untested
from jsplit.privacy.scores import Adversary, Budget, Score, of_few

FORMAT = 1


def encoded(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as a JSON object.

    Args:
        outcomes: of all trainers.
    """
    found = {"format": FORMAT, "outcomes": [_plain(_noted(o)) for o in outcomes]}
    return json.dumps(found, indent=1, allow_nan=False)


def _noted(outcome: Outcome) -> dict[str, object]:
    """An outcome as dictionaries; findings of few records have a note, as in tables."""
    found = asdict(outcome)
    for own, f in zip(found["findings"], outcome.findings, strict=True):
        if few := of_few(f.score.budget.records):
            own["note"] = few
    return found


def decoded(text: str) -> tuple[Outcome, ...]:
    """The outcomes that `encoded` wrote.

    Args:
        text: of it.

    Raises:
        ValueError: if it is of another format.
    """
    found = json.loads(text)
    given = found.get("format") if isinstance(found, dict) else None
    if given != FORMAT:
        raise ValueError(f"`text` must be a report of format {FORMAT}, got {given!r}.")
    return tuple(_outcome(o) for o in found["outcomes"])


def _plain(x: object) -> object:
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(i) for i in x]
    if isinstance(x, (str, bool)) or x is None:
        return x
    # NumPy's numbers come from attacks of others.
    number = cast(float, x.item() if hasattr(x, "item") else x)  # type: ignore
    return number if isfinite(number) else str(number)


def _outcome(own: dict) -> Outcome:
    for name in ("losses", "metrics"):
        own[name] = {n: float(x) for n, x in own[name].items()}
    own["proven"] = tuple(own["proven"])
    own["findings"] = tuple(_finding(f) for f in own["findings"])
    own["exposures"] = tuple(_exposure(e) for e in own["exposures"])
    own["untested"] = tuple(Untested(**u) for u in own["untested"])
    return Outcome(**own)


def _finding(own: dict) -> Finding:
    score = own["score"]
    for name in ("value", "control", "chance"):
        score[name] = float(score[name])
    score["interval"] = _pair(score["interval"])
    score["adversary"] = Adversary(**score["adversary"])
    score["budget"] = Budget(**score["budget"])
    score["more"] = {n: float(x) for n, x in score["more"].items()}
    pictures = tuple(Picture(**p) for p in own["pictures"])
    return Finding(own["cut"], own["when"], Score(**score), pictures)


def _exposure(own: dict) -> Exposure:
    if (d := own["dependence"]) is not None:
        for name in ("biased", "corrected", "shuffled"):
            d[name] = _estimate(d[name])
        own["dependence"] = Dependence(**d)
    for p in own["probes"]:
        for name in ("value", "control"):
            p[name] = _estimate(p[name])
    own["probes"] = tuple(Probe(**p) for p in own["probes"])
    return Exposure(**own)


def _estimate(own: dict) -> Estimate:
    own["value"], own["interval"] = float(own["value"]), _pair(own["interval"])
    return Estimate(**own)


def _pair(ends: Sequence[float | str]) -> tuple[float, float]:
    low, high = map(float, ends)
    return low, high
