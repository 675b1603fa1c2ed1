"""Which leaves of a cotangent are zero by structure where they are made, or of no use where
they arrive.

A loss that reads a mask only to compare it gives it no cotangent; a mask that does not
depend on parameters has no use for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax

from jsplit.core.base import PyTree, TrainState
from jsplit.core.trees import inexact_part
from jsplit.jaxprs.reads import Reads, leaves_in, reads_of, union
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.known import Known
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load
from jsplit.training.walk import Address, Op, Store, Wire

_Leaf = tuple[Address, int]


class _Traced(NamedTuple):
    """An operation, what its results depend on, and its arguments and results as leaves."""

    op: Op
    reads: Reads
    args: list[PyTree]
    results: list[_Leaf]

    def depends_on(self, result: int) -> set[_Leaf]:
        """What one leaf of the result depends on."""
        parts = leaves_in(union(self.reads.results, [result]), self.args)
        return {
            (name, i)
            for name, leaves in zip(self.op.reads, parts, strict=True)
            for i in leaves
        }


def unread_cotangents(known: Known) -> dict[str, dict[Wire, frozenset[int]]]:
    """The leaves of cotangents that are zero at their sender, or of no use to the receiver.

    Args:
        known: the training on shapes.

    Returns:
        By the party that knows it, and by message.
    """
    store = _first_store(known)
    traced = [
        _trace(op, store)
        for op in training_ops(known.config)
        if op.party in known.parties
    ]
    sizes = {
        w: len(jax.tree.leaves(x))
        for w, x in store.items()
        if isinstance(w, Wire) and w.kind == WireKind.COTANGENT
    }
    given, used = _given(known, traced, sizes), _used(known, traced, sizes)

    found: dict[str, dict[Wire, frozenset[int]]] = {p: {} for p in known.parties}
    for wire, size in sizes.items():
        for party, there in ((wire.sender, given), (wire.receiver, used)):
            if party in known.parties:
                unread = frozenset(i for i in range(size) if (wire, i) not in there)
                found[party][wire] = unread
    return found


def _is_of_cotangent(address: Address) -> bool:
    """Whether a cotangent lies there, at a party or under way."""
    return address.kind in (Kind.COTANGENT, WireKind.COTANGENT)


def _first_store(known: Known) -> Store:
    """The shapes of what is there before a step, and of all that other parties send."""
    config = known.config
    layout = {p: at for p, at in layout_of(config).items() if p in known.parties}
    fields = {f: known.values[f] for f in config.topology.fields if f in known.values}
    store = load(layout, TrainState(known.states), fields)
    for op in training_ops(config):
        for w in op.writes:
            if isinstance(w, Wire) and op.party not in known.parties:
                value = known.values[w.what]
                is_cotangent = w.kind == WireKind.COTANGENT
                store[w] = inexact_part(value) if is_cotangent else value
    return store


def _trace(op: Op, store: Store) -> _Traced:
    """Trace one operation, and put the shapes of its results into the store."""
    args = [store[r] for r in op.reads]
    reads = reads_of(op.run, *args)
    store.update(zip(op.writes, reads.shapes, strict=True))
    results: list[_Leaf] = []
    for name, shapes in zip(op.writes, reads.shapes, strict=True):
        results += [(name, i) for i in range(len(jax.tree.leaves(shapes)))]
    return _Traced(op, reads, args, results)


def _given(
    known: Known, traced: Sequence[_Traced], sizes: dict[Wire, int]
) -> set[_Leaf]:
    """The leaves of cotangents that some loss gives something to."""
    strangers = [w for w in sizes if w.sender not in known.parties]
    given = _agreed(known, sizes, strangers)
    # Of weights its cotangents may be other than without.
    may = {x.name for x in known.config.topology.losses if x.takes_weight}
    for t in traced:
        unknown = t.op.kind == OpKind.LOSS and t.op.what in may
        for i, (name, leaf) in enumerate(t.results):
            if not _is_of_cotangent(name) or (i in t.reads.zeros and not unknown):
                continue
            # A loss gives cotangents from nothing; all others pass on what they get.
            if t.op.kind == OpKind.LOSS or t.depends_on(i) & given:
                given.add((name, leaf))
    return given


def _used(
    known: Known, traced: Sequence[_Traced], sizes: dict[Wire, int]
) -> set[_Leaf]:
    """The leaves of cotangents that some gradient depends on."""
    strangers = [w for w in sizes if w.receiver not in known.parties]
    used = _agreed(known, sizes, strangers)
    for t in reversed(traced):
        for i, (name, leaf) in enumerate(t.results):
            if name.kind == Kind.GRAD or (name, leaf) in used:
                used |= {x for x in t.depends_on(i) if _is_of_cotangent(x[0])}
    return used


def _agreed(known: Known, sizes: dict[Wire, int], names: Iterable[Wire]) -> set[_Leaf]:
    """The leaves that cross between a party that is known and one that is not."""
    return {
        (w, i)
        for w in names
        for i in range(sizes[w])
        if i not in known.agreed.get(w, ())
    }
