"""Fields that are not secret: who holds one sends it to all others that read it.

A node that hands the field on, `public_mask`, makes a value of it, which crosses as any
other. So it is seen in drawings, counted in costs, and proven in views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import names_of
from jsplit.segments.from_model import segment
from jsplit.topology.losses import Loss
from jsplit.topology.nodes import Node

Held = tuple[str, Sequence[str]]
"""A party and the fields that it holds in one of its roles."""


def inputs_with(
    part: Segment, values: Sequence[str], public: Iterable[str]
) -> Sequence[str]:
    """What a segment reads that takes some values, and public fields by their names.

    Args:
        part: the segment.
        values: in its order.
        public: fields that are not secret.
    """
    taken = [n for n in part.inputs or () if n in public and n not in values]
    if not taken or len(part.inputs or ()) != len(values) + len(taken):
        return values
    rest = iter(values)
    return [n if n in taken else next(rest) for n in part.inputs or ()]


def send_public(
    nodes: Sequence[Node | Loss], held: Iterable[Held], public: str | Sequence[str]
) -> tuple[list[Node | Loss], list[Held]]:
    """The nodes of a configuration with those that send public fields, and who holds what.

    Args:
        nodes: in the order of the computation.
        held: by role; the first is the client's.
        public: fields that are not secret.

    Raises:
        ValueError: if nothing reads one, or it is not clear who holds it.
    """
    found, roles = [*nodes], [*held]
    for field in names_of("public", public):
        readers = [n for n in found if isinstance(n, Node) and field in n.reads]
        if not readers:
            raise ValueError(f"`public` names `{field}`, which no segment reads.")
        holders = [party for party, fields in roles if field in fields]
        if not holders:
            holders = [_client(nodes, field)]
            roles.append((holders[0], [field]))
        others = [n for n in readers if n.party not in holders]
        if not others:
            continue
        name = f"public_{field}"
        sent = Node(name, segment(_handed_on, inputs=[field]), holders[0], [field])
        found.insert(found.index(others[0]), sent)
        for n in others:
            inputs = [name if i == field else i for i in n.reads]
            found[found.index(n)] = replace(n, inputs=inputs)
    return found, roles


def _client(nodes: Sequence[Node | Loss], field: str) -> str:
    """The one party that reads fields alone, and so is who holds another."""
    made = {n.name for n in nodes}
    parts = [n for n in nodes if isinstance(n, Node)]
    clients = {n.party: None for n in parts if made.isdisjoint(n.reads)}
    if len(clients) != 1:
        raise ValueError(
            f"`public` names `{field}`, which none of {list(clients)} reads, so it is not "
            "clear who holds it; have the bottom of one of them take it."
        )
    return next(iter(clients))


def _handed_on(field: PyTree) -> PyTree:
    return field
