"""A topology in words, as it prints: who holds and computes what, and what crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsplit.core.loans import Loan
from jsplit.core.paths import dotted
from jsplit.topology.crossings import Crossing
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node, kind_of


def in_words(
    parties: Sequence[str],
    holds: Mapping[str, Sequence[str]],
    parts: Sequence[Node | Loss | Metric],
    crossings: Sequence[Crossing],
    loans: Mapping[str, Sequence[Loan]],
    public: Sequence[str],
) -> str:
    """A line for each party, crossing (`<->`: a cotangent comes back) and tied weight.

    What is carried with a cut stands beside its crossing, and what is public last.
    """
    width = max(map(len, parties))
    rows: list[str] = []
    for party in parties:
        has: list[str] = []
        if holds.get(party):
            has.append(f"holds {', '.join(holds[party])}")
        for n in parts:
            if n.party == party:
                has.append(f"{n.name} = {kind_of(n)}({', '.join(n.reads)})")
        rows.append(f"  {party:{width}}  {'; '.join(has)}")
    segment = {n.name: n.segment for n in parts if isinstance(n, Node)}
    for c in crossings:
        arrow = "<->" if c.returns else "->"
        carried = ", ".join(x.name for x in segment[c.name].carried)
        carrying = f", carrying {carried}" if carried else ""
        rows.append(f"  {c.name}: {c.sender} {arrow} {c.receiver}{carrying}")
    rows += [f"  {name} reads {lent}" for name, lent in lent_in_words(loans)]
    if public:
        rows.append(f"  public: {', '.join(public)}")
    return "\n".join(["Topology", *rows])


def lent_in_words(loans: Mapping[str, Sequence[Loan]]) -> list[tuple[str, str]]:
    """By node that reads tied weights of another, which and whose, in words."""
    found: list[tuple[str, str]] = []
    for name, lent in loans.items():
        for loan in lent:
            found.append(
                (name, f"{', '.join(map(dotted, loan.paths))} of {loan.owner}")
            )
    return found
