"""A number that parties agree on in a step: each gives its part, and all get the sum.

The parts go up a tree of the parties, along crossings that are there anyway, to the
party of the first loss; the sum comes back the same way. Each is an explicit message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.topology.graph import Topology
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.walk import Name, Op, Wire


class Tree(NamedTuple):
    """How the parties of a topology hang together.

    Attributes:
        hub: the party that adds up.
        parent: by each other party, the next one on the way to the hub; parents come
            before their children.
    """

    hub: str
    parent: dict[str, str]


def tree_of(topology: Topology) -> Tree:
    """The tree along which scalars go."""
    hub = topology.losses[0].party
    near: dict[str, list[str]] = {p: [] for p in topology.parties}
    for c in topology.crossings:
        near[c.sender].append(c.receiver)
        near[c.receiver].append(c.sender)

    parent: dict[str, str] = {}
    reached = [hub]
    for p in reached:
        for q in sorted(near[p], key=topology.parties.index):
            if q not in reached:
                parent[q] = p
                reached.append(q)
    # A party that exchanges no value with anybody is told directly.
    for p in topology.parties:
        if p not in reached:
            parent[p] = hub
    return Tree(hub, parent)


class Exchange(NamedTuple):
    """One sum over parties in a step.

    Attributes:
        name: of the messages.
        givers: the parties that give a part.
        takers: the parties that get the sum.
    """

    name: str
    givers: tuple[str, ...]
    takers: tuple[str, ...]

    def part(self, party: str) -> Name:
        """Where a giver's own part lies, float [n]."""
        return Name(party, Kind.SCALARS, self.name)

    def sum(self, party: str) -> Name:
        """Where the sum lies at a taker, float [n]."""
        return Name(party, Kind.SCALARS, self.name, summed=True)


def scalar_wires(topology: Topology, exchange: Exchange) -> list[Wire]:
    """Every message of an exchange: up to the hub, then down again."""
    ops = exchange_ops(topology, exchange)
    return [w for op in ops for w in op.writes if isinstance(w, Wire)]


def rows_of(topology: Topology, exchange: Exchange, wire: Wire) -> int | None:
    """How many parts a message holds, [rows, n]; `None`: it is the sum, [n]."""
    tree = tree_of(topology)
    if tree.parent.get(wire.sender) != wire.receiver:
        return None
    return len(_all_below(tree, wire.sender, exchange.givers))


def exchange_ops(topology: Topology, exchange: Exchange) -> list[Op]:
    """Send the parts up, add them in the order of the parties, send the sum down.

    Before these, each giver writes its `part`; after them each taker can read the `sum`.
    """
    tree, name = tree_of(topology), exchange.name
    ops: list[Op] = []
    for p in (*reversed(tree.parent), tree.hub):
        rows = _all_below(tree, p, exchange.givers)
        if not rows:
            continue
        # Those below came earlier in this loop, so what they sent is there.
        reads = [exchange.part(p)] if p in exchange.givers else []
        order = [p] if reads else []
        for q, above in tree.parent.items():
            of_q = _all_below(tree, q, exchange.givers) if above == p else []
            if of_q:
                reads.append(_from(p, name, q))
                order += of_q
        own = p in exchange.givers
        if p == tree.hub:
            wanted = [order.index(r) for r in topology.parties if r in rows]
            add = _adder(wanted, own=own)
            ops.append(Op(p, OpKind.SUM, name, tuple(reads), (exchange.sum(p),), add))
        else:
            wanted = [order.index(r) for r in rows]
            wire = Wire(WireKind.SCALAR, name, p, tree.parent[p])
            at = _from(wire.receiver, name, p)
            ops += _message(wire, reads, at, _stacker(wanted, own=own))
    for p, above in tree.parent.items():
        if _all_below(tree, p, exchange.takers):
            wire = Wire(WireKind.SCALAR, name, above, p)
            reads, at = [exchange.sum(above)], exchange.sum(p)
            ops += _message(wire, reads, at, lambda total: (total,))
    return ops


def _all_below(tree: Tree, party: str, wanted: Sequence[str]) -> list[str]:
    """Of the parties `wanted`, this one and those below it."""
    found = [party]
    for p, above in tree.parent.items():
        # Parents come before their children, so one pass finds all.
        if above in found:
            found.append(p)
    return [p for p in found if p in wanted]


def _from(party: str, exchange: str, sender: str) -> Name:
    return Name(party, Kind.SCALARS, exchange, sender=sender)


_Compute = Callable[..., tuple[jax.Array]]


def _message(wire: Wire, reads: Sequence[Name], at: Name, make: _Compute) -> list[Op]:
    return [
        Op(wire.sender, OpKind.SEND, wire.label, tuple(reads), (wire,), make),
        Op(wire.receiver, OpKind.RECEIVE, wire.label, (wire,), (at,), lambda x: (x,)),
    ]


def _rows(parts: Sequence[jax.Array], own: bool) -> list[jax.Array]:
    """The part of each party: one's own comes first and alone, [n], others in rows."""
    first = [parts[0]] if own else []
    return [*first, *[row for x in parts[len(first) :] for row in x]]


def _stacker(order: Sequence[int], *, own: bool) -> _Compute:
    def stack(*parts: jax.Array) -> tuple[jax.Array]:
        rows = _rows(parts, own)
        return (jnp.stack([rows[i] for i in order]),)

    return stack


def _adder(order: Sequence[int], *, own: bool) -> _Compute:
    def add(*parts: jax.Array) -> tuple[jax.Array]:
        rows = _rows(parts, own)
        total = rows[order[0]]
        # One after the other: floating sums are of their terms in this order, in every
        # interpreter.
        for i in order[1:]:
            total = total + rows[i]
        return (total,)

    return add
