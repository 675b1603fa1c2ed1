"""A topology in words, as it prints: who holds and computes what, and what crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

from jsplit.core.html import Table, html_of
from jsplit.core.loans import Loan
from jsplit.core.paths import dotted
from jsplit.topology.crossings import Crossing
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node, kind_of
from jsplit.topology.own_values import carried_over


class _TopologyLike(Protocol):
    """What is asked of a topology, whose class is defined above this file."""

    # As they are there: a checker takes a cached property for no plain one.
    @cached_property
    def parties(self) -> tuple[str, ...]: ...
    @property
    def nodes(self) -> Sequence[Node | Loss | Metric]: ...
    @property
    def holds(self) -> Mapping[str, Sequence[str]]: ...
    @cached_property
    def segments(self) -> tuple[Node, ...]: ...
    @cached_property
    def losses(self) -> tuple[Loss, ...]: ...
    @cached_property
    def metrics(self) -> tuple[Metric, ...]: ...
    @cached_property
    def crossings(self) -> tuple[Crossing, ...]: ...
    @cached_property
    def loans(self) -> Mapping[str, Sequence[Loan]]: ...
    @property
    def public(self) -> str | Sequence[str]: ...


def in_words(self: _TopologyLike) -> str:
    """A line for each party, crossing (`<->`: a cotangent comes back) and tied weight.

    What is carried with a cut stands beside its crossing, and what is public last.
    """
    width = max(map(len, self.parties))
    rows: list[str] = []
    for party in self.parties:
        held = self.holds.get(party)
        has = [f"holds {', '.join(held)}"] if held else []
        rows.append(f"  {party:{width}}  {'; '.join([*has, *_computed(self, party)])}")
    for c in self.crossings:
        arrow = "<->" if c.returns else "->"
        rows.append(f"  {c.name}: {c.sender} {arrow} {c.receiver}{_carried(self, c)}")
    return "\n".join(["Topology", *rows, *(f"  {x}" for x in _more(self))])


def in_html(self: _TopologyLike) -> str:
    """The same as tables for a notebook: by party, and by crossing."""
    rows = [
        [p, ", ".join(self.holds.get(p, ())), "; ".join(_computed(self, p))]
        for p in self.parties
    ]
    words = range(4)
    parties = Table(["party", "holds", "computes"], rows, words=words)
    back = {True: "cotangent", False: "nothing"}
    crossing = [
        [f"{c.name}{_carried(self, c)}", c.sender, c.receiver, back[c.returns]]
        for c in self.crossings
    ]
    heads = ["crossing", "from", "to", "comes back"]
    crossings = Table(heads, crossing, words=words)
    return html_of([parties, crossings], *_more(self), title="Topology")


def _computed(self: _TopologyLike, party: str) -> list[str]:
    parts = (*self.segments, *self.losses, *self.metrics)
    return [
        f"{n.name} = {kind_of(n)}({', '.join(n.reads)})"
        for n in parts
        if n.party == party
    ]


def _carried(self: _TopologyLike, crossing: Crossing) -> str:
    carried = ", ".join(carried_over(self, crossing.name, crossing.receiver))
    return f", carrying {carried}" if carried else ""


def _more(self: _TopologyLike) -> list[str]:
    """What weights are tied, and what is public."""
    found = [f"{name} reads {lent}" for name, lent in lent_in_words(self.loans)]
    return found + ([f"public: {', '.join(self.public)}"] if self.public else [])


def lent_in_words(loans: Mapping[str, Sequence[Loan]]) -> list[tuple[str, str]]:
    """By node that reads tied weights of another, which and whose, in words."""
    found: list[tuple[str, str]] = []
    for name, lent in loans.items():
        for loan in lent:
            found.append(
                (name, f"{', '.join(map(dotted, loan.paths))} of {loan.owner}")
            )
    return found
