"""A topology in words, as it prints: who holds and computes what, and what crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from jsplit.core.loans import Loan
from jsplit.core.paths import dotted
from jsplit.topology.crossings import Crossing
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node, kind_of


class _TopologyLike(Protocol):
    """What is asked of a topology, whose class is defined above this file."""

    @property
    def holds(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def public(self) -> str | Sequence[str]: ...
    @property
    def parties(self) -> tuple[str, ...]: ...
    @property
    def segments(self) -> tuple[Node, ...]: ...
    @property
    def losses(self) -> tuple[Loss, ...]: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    @property
    def crossings(self) -> tuple[Crossing, ...]: ...
    @property
    def loans(self) -> Mapping[str, tuple[Loan, ...]]: ...


def in_words(topology: _TopologyLike) -> str:
    """A line for each party, crossing (`<->`: a cotangent comes back) and tied weight.

    What is carried with a cut stands beside its crossing, and what is public last.
    """
    parts = (*topology.segments, *topology.losses, *topology.metrics)
    width = max(map(len, topology.parties))
    rows: list[str] = []
    for party in topology.parties:
        has: list[str] = []
        if topology.holds.get(party):
            has.append(f"holds {', '.join(topology.holds[party])}")
        for n in parts:
            if n.party == party:
                has.append(f"{n.name} = {kind_of(n)}({', '.join(n.reads)})")
        rows.append(f"  {party:{width}}  {'; '.join(has)}")
    segment = {n.name: n.segment for n in topology.segments}
    for c in topology.crossings:
        arrow = "<->" if c.returns else "->"
        carried = ", ".join(x.name for x in segment[c.name].carried)
        carrying = f", carrying {carried}" if carried else ""
        rows.append(f"  {c.name}: {c.sender} {arrow} {c.receiver}{carrying}")
    rows += [f"  {name} reads {lent}" for name, lent in lent_in_words(topology)]
    if topology.public:
        rows.append(f"  public: {', '.join(topology.public)}")
    return "\n".join(["Topology", *rows])


def lent_in_words(topology: _TopologyLike) -> list[tuple[str, str]]:
    """By node that reads tied weights of another, which and whose, in words."""
    found: list[tuple[str, str]] = []
    for name, loans in topology.loans.items():
        for loan in loans:
            found.append(
                (name, f"{', '.join(map(dotted, loan.paths))} of {loan.owner}")
            )
    return found
