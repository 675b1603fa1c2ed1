"""A topology in words, as it prints: who holds and computes what, and what crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsplit.topology.crossings import Crossing
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node, kind_of


def in_words(
    parties: Sequence[str],
    holds: Mapping[str, Sequence[str]],
    parts: Sequence[Node | Loss | Metric],
    crossings: Sequence[Crossing],
) -> str:
    """A line for each party and each crossing, `<->` where a cotangent comes back."""
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
    for c in crossings:
        arrow = "<->" if c.returns else "->"
        rows.append(f"  {c.name}: {c.sender} {arrow} {c.receiver}")
    return "\n".join(["Topology", *rows])
