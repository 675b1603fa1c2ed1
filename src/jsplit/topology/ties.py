"""Tied weights of a topology: those who read one are at one party, and one of them owns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from jsplit.core.loans import Loan, loans_of, owners_of
from jsplit.core.tied import Tied
from jsplit.topology.nodes import Node


def find_loans(nodes: Sequence[Node]) -> dict[str, tuple[Loan, ...]]:
    """By node that borrows a weight, of whom and which; all are of one party.

    Raises:
        ValueError: if a weight is tied across parties, its owner is not there
            or twice, or one of those who read it adds noise to its gradient.
    """
    found: dict[str, tuple[Loan, ...]] = {}
    for party in dict.fromkeys(n.party for n in nodes):
        own = {n.name: n for n in nodes if n.party == party}
        segments = {name: n.segment for name, n in own.items()}
        owners = owners_of(segments)
        for n in own.values():
            for tied in n.segment.tied:
                if n.segment.name != tied.owner and tied not in owners:
                    _refuse_across(nodes, n, tied)
        found |= loans_of(segments)
    _refuse_noise(nodes, found)
    return found


class _WithSegments(Protocol):
    @property
    def segments(self) -> tuple[Node, ...]: ...


def loans(topology: _WithSegments) -> Mapping[str, tuple[Loan, ...]]:
    """By node, the tied weights that it reads of other nodes of its party.

    Returns:
        A mapping that cannot be changed.

    Example:
        >>> import jsplit
        >>> bottom, top = (jsplit.segment(lambda x: x) for _ in range(2))
        >>> dict(jsplit.vanilla(bottom, top, loss=max).loans)
        {}
    """
    return MappingProxyType(find_loans(topology.segments))


def _refuse_across(nodes: Sequence[Node], reader: Node, tied: Tied) -> None:
    """Refuse a weight that a node of another party owns; else say nothing here."""
    for n in nodes:
        if tied in n.segment.tied and n.segment.name == tied.owner:
            ways = dict(zip(tied.readers, tied.ways, strict=True))
            raise ValueError(
                f"the weight `{tied.dotted}` is tied across parties: `{n.name}` at "
                f"`{n.party}` and `{reader.name}` at `{reader.party}` read it "
                f"({ways[reader.segment.name or '']}). Give both to one party, "
                "as `jsplit.u_shaped` gives the first and the last segment to the client; "
                "cut where one segment has all that read it; freeze it, and have each keep "
                "a copy (`jsplit.split(..., trainable=..., copies=True)`); or untie it, "
                "with a weight of its own for each."
            )


def _refuse_noise(nodes: Sequence[Node], loans: dict[str, tuple[Loan, ...]]) -> None:
    """Refuse a tied weight of which one reader's gradient gets noise, and another's none."""
    segment = {n.name: n.segment for n in nodes}
    for name, lent in loans.items():
        for loan in lent:
            trains = segment[loan.owner].trains
            # A frozen one has no gradient, of which nothing could be without noise.
            if trains is not None and not any(map(trains, loan.paths)):
                continue
            for private in (name, loan.owner):
                if segment[private].noise is not None:
                    weight = ".".join(map(str, loan.paths[0]))
                    raise ValueError(
                        f"node `{private}` adds noise to its gradient, and its weight "
                        f"`{weight}` is tied: `{loan.owner}` and `{name}` read it, so "
                        "a part of the gradient would be without; untie it."
                    )
