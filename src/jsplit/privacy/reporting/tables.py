"""What a report prints, as tables: title, heads of columns, rows of text, and a note."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.reporting.records import Finding, Outcome, group_of
from jsplit.privacy.scores import FAILED, Score, of_few, short

LEGEND = (
    "A score is a lower bound: a better attack may reach more, none can be said to reach "
    "less.",
    "Of the best of many attacks the value is somewhat too large, since luck is chosen too; "
    "its control is what the same attack reaches where there is nothing to find.",
    "Intervals are of 95 %, over the records of this one training: another training, or "
    "other records, may give another number.",
    "A number of fewer than 20 records says of how many it is: its interval may well be wrong.",
    "An attack that had fewer steps than it takes by itself, or was still gaining at its "
    "end, is marked as not converged: that it finds little says nothing of a defence.",
    "An attack that does worse than a guess has failed: it shows no protection, and where "
    "none did better, what can be said is what a guess gets. An AUC below chance tells who "
    "reads it the other way round as much as one so far above.",
    "What is not listed as ruled out by the topology may leak, whether it was tested or not.",
)


class Table(NamedTuple):
    """A table of a report.

    Attributes:
        title: above it.
        heads: of the columns.
        rows: cells, as text.
        note: below it.
    """

    title: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """The tables of a report.

    Args:
        outcomes: of all trainers.

    Returns:
        Those that have rows.
    """
    found = [
        _utility(outcomes),
        _beside(outcomes),
        _all(outcomes),
        _measures(outcomes),
        _proven(outcomes),
        _untested(outcomes, proven=True),
        _untested(outcomes, proven=False),
    ]
    return [t for t in found if t.rows]


def _utility(outcomes: Sequence[Outcome]) -> Table:
    names = dict.fromkeys(n for o in outcomes for n in (*o.losses, *o.metrics))
    heads = ["defence", *names, "bytes a step", "steps"]
    heads += ["seconds, compiling included"]
    rows = []
    for o in outcomes:
        values = {**o.losses, **o.metrics}
        own = [short(values[n]) if n in values else "" for n in names]
        rows.append([o.name, *own, f"{o.bytes:,}", str(o.steps), f"{o.seconds:.1f}"])
    first = outcomes[0]
    note = (
        f"Losses and metrics of {first.test} test records, after training on "
        f"{first.train} in batches of {first.batch}. Where `steps` is 0 no training was "
        "run here: the state was given."
    )
    return Table("What it is worth, and what it costs", heads, rows, note)


def _beside(outcomes: Sequence[Outcome]) -> Table:
    """The best attack at each cut, a column for each defence."""
    best = {(o.name, group_of(f)): f for o in outcomes for f in o.best}
    groups = dict.fromkeys(group for _, group in best)
    heads = ["cut", "adversary", "target", "measure", *(o.name for o in outcomes)]
    rows = []
    for group in groups:
        cells = ((o, best.get((o.name, group))) for o in outcomes)
        rows.append(
            [*group, *("not tested" if f is None else _best(f, o) for o, f in cells)]
        )
    note = (
        "Value, interval, the attack and when; control: the same attack where there is "
        "nothing to find; chance: without looking, by a guess; knows: beside its own view."
    )
    return Table("The best attack at each cut", heads, rows, note)


def _best(f: Finding, outcome: Outcome) -> str:
    s = f.score
    # Also where another attack is the best: one of these might be, with more steps.
    doubted = dict.fromkeys(
        o.score.attack
        for o in outcome.findings
        if o.doubt and group_of(o) == group_of(f)
    )
    early = f"; not converged: {', '.join(doubted)}" if doubted else ""
    clear = "" if s.beats_chance else "; not clear of chance"
    clear = f"; {FAILED}" if s.failed else clear
    better = s.value > s.chance if s.larger_leaks else s.value < s.chance
    guess = f"nobody tried better than a guess ({short(s.chance)}); the least bad: "
    return (
        f"{'' if better else guess}{_within(s)} by {s.attack}, {f.when} (control "
        f"{short(s.control)}, chance {short(s.chance)}; knows {_knows(s)}{clear}{early})"
    )


def _knows(s: Score) -> str:
    public = s.adversary.public
    return s.adversary.knows + (f", {public} public records" if public else "")


def _all(outcomes: Sequence[Outcome]) -> Table:
    heads = ["defence", "cut", "adversary", "target", "attack", "when", "measure"]
    heads += ["value", "control", "chance", "knows", "kind", "steps", "records"]
    heads += ["seconds, compiling included", "failed, or not converged"]
    rows = []
    for o in outcomes:
        for f in o.findings:
            s, a, b = f.score, f.score.adversary, f.score.budget
            row = [o.name, f.cut, a.party, s.target, s.attack, f.when, s.measure]
            row += [_within(s), short(s.control), short(s.chance), _knows(s)]
            row += ["active" if a.active else "passive", b.effort, str(b.records)]
            doubts = [FAILED] if s.failed else []
            doubts += [f"not converged: {f.doubt}"] if f.doubt else []
            rows.append([*row, f"{b.seconds:.1f}", "; ".join(doubts)])
    return Table("Every attack that was run", heads, rows)


def _measures(outcomes: Sequence[Outcome]) -> Table:
    heads = ["defence", "cut", "receiver", "of", "measure", "value", "nothing to find"]
    rows = []
    for o in outcomes:
        for e in o.exposures:
            of = f"{e.field} (the receiver has it)" if e.held else e.field
            place = [o.name, e.cut, e.receiver, of]
            if (d := e.dependence) is not None:
                name = f"distance correlation in batches of {d.batch}"
                shuffled = f"{short(d.shuffled.value)} (shuffled pairs)"
                rows.append([*place, name, _estimate(d.biased), shuffled])
                name = "its square, bias-corrected"
                rows.append([*place, name, _estimate(d.corrected), "0"])
            for p in e.probes:
                name = f"{p.kind} probe, {p.measure}"
                control = f"{short(p.control.value)} (shuffled)"
                rows.append([*place, name, _estimate(p.value), control])
    note = "Read off activations after training; these are no attacks."
    return Table("Measures at each cut", heads, rows, note)


def _proven(outcomes: Sequence[Outcome]) -> Table:
    rows = [[o.name, text] for o in outcomes for text in o.proven]
    note = "No attack is needed for these: they follow from the model's own code."
    return Table("Proven to be given away", ["defence", "what"], rows, note)


def _untested(outcomes: Sequence[Outcome], *, proven: bool) -> Table:
    title = "Ruled out by the topology" if proven else "What was not tested, and why"
    rows: dict[tuple[str, ...], list[str]] = {}
    for o in outcomes:
        for u in o.untested:
            if u.proven == proven:
                rows.setdefault((u.what, u.party, u.cut, u.why), []).append(o.name)
    heads = ["what", "adversary", "cut", "why"]
    if len(outcomes) > 1:
        heads.append("defence")
    found = []
    for cells, names in rows.items():
        whose = ["all" if len(names) == len(outcomes) else ", ".join(names)]
        found.append([*cells, *(whose if len(outcomes) > 1 else [])])
    return Table(title, heads, found)


def _within(s: Score) -> str:
    low, high = s.interval
    return _marked(f"{short(s.value)} [{short(low)}, {short(high)}]", s.budget.records)


def _estimate(e: Estimate) -> str:
    low, high = e.interval
    return _marked(f"{short(e.value)} [{short(low)}, {short(high)}]", e.records)


def _marked(value: str, records: int) -> str:
    """A value, with how many records it is of where they are few."""
    return f"{value} of {few}" if (few := of_few(records)) else value


def pictured(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Finding]]:
    """Findings with pictures, each with a title."""
    for o in outcomes:
        for f in o.findings:
            if f.pictures:
                s = f.score
                yield f"{o.name}: {s.attack} at {f.cut} by {s.adversary.party}", f
