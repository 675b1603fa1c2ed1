"""What a contestant gives away: the best attacks on labels and on records, and what is promised.

Attacks are those of `jsplit.privacy.report` that cost little. An adversary has a third of the
records as public ones of the same kind, and the labels of some of each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import jsplit
from experiments.bench.split_bench.contestant import Setting
from jsplit import privacy

TRIED = ("norm", "cosine", "direction clusters", "model completion", "decoder")
KNOWN = 4  # labels of each class
ATTACKED = 256  # records
WATCHED = 8  # of the first and the last steps


def attacked(
    trainer: jsplit.Trainer,
    data: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    inputs: Sequence[str],
    s: Setting,
) -> dict:
    """The best attack on labels and the best on records, of a training of `s.epochs` passes.

    Args:
        trainer: what is attacked.
        data: every field of the topology, [records, ...].
        test: the same of others.
        inputs: which fields are no labels.
    """
    public = len(next(iter(data.values()))) // 3
    found = privacy.report(
        trainer,
        {name: x[public:] for name, x in data.items()},
        test=test,
        public={name: data[name][:public] for name in inputs},
        known=KNOWN,
        attacks=[a for a in privacy.attempts() if a.name in TRIED],
        epochs=s.epochs,
        batch=s.batch,
        watched=WATCHED,
        attacked=ATTACKED,
        steps=s.steps,
    )["none"]
    best: dict = {"labels": None, "inputs": None}
    for finding in found.best:
        one = said_of(finding.cut, finding.score)
        kind = "inputs" if finding.score.target in inputs else "labels"
        before = best[kind]
        if before is None or one["advantage"] > before["advantage"]:
            best[kind] = one
    return best | {"notes": notes(found, best, s, public)}


def notes(found: privacy.Outcome, best: Mapping, s: Setting, public: int) -> str:
    """What was tried with what, and why a kind has no score."""
    tried = sorted({f.score.attack for f in found.findings})
    says = [
        f"tried: {', '.join(tried) or 'nothing'}; known: {public} public records, "
        f"{KNOWN} labels of each class; {s.steps or 'their own'} steps"
    ]
    for kind, one in best.items():
        if one is None:
            says.append(f"no attack on {kind} applies: {reason(found, kind)}")
    return ". ".join(says)


def reason(found: privacy.Outcome, kind: str) -> str:
    """Why nobody attacked labels, or records: what the topology rules out."""
    threat = "labels" if kind == "labels" else "inversion"
    # By attack or by threat; what is proven is said of the threat as a whole.
    out = [u.why for u in found.untested if u.proven and threat in u.what]
    return "; ".join(dict.fromkeys(out)) or "no party sees what one of these reads"


def said_of(cut: str, score: privacy.Score) -> dict:
    """A score as the schema has it."""
    low, high = (float(x) for x in score.interval)
    return {
        "attack": score.attack,
        "party": score.adversary.party,
        "cut": cut,
        "target": score.target,
        "measure": score.measure,
        "value": float(score.value),
        "low": low,
        "high": high,
        "chance": float(score.chance),
        "control": float(score.control),
        "advantage": advantage(score),
        "doubt": score.doubt,
    }


def advantage(score: privacy.Score) -> float:
    """How far from a guess to all: so that measures can stand in one column."""
    if score.larger_leaks:
        return float((score.value - score.chance) / (1 - score.chance))
    # Of an error: 1 is a perfect copy.
    return float(1 - score.value / score.chance)


def promised(
    parts: jsplit.Topology,
    batch: Mapping[str, np.ndarray],
    *,
    steps: int,
    records: int,
    labels: Mapping[str, privacy.Mechanism] | None = None,
) -> dict:
    """What differential privacy guarantees, in a word and in numbers."""
    size = len(next(iter(batch.values())))
    found = privacy.guarantee(
        parts,
        batch,
        steps=steps,
        batch=size,
        records=records,
        short="dropped",
        labels=labels,
    ).statements
    hold = [x for x in found if x.holds]
    said = [
        f"{x.about} of {x.party} against {x.against}: {x.epsilon:.3g}" for x in hold
    ]
    return {
        "statements": len(found),
        "hold": len(hold),
        "weakest": max((float(x.epsilon or 0) for x in hold), default=None),
        "said": "; ".join([*said, f"{len(found) - len(hold)} of {len(found)}: none"]),
    }
