"""The leaves of a cut that the rest of the model does not read: they need not cross.

A submodule may return more than is used, as an RNN all its outputs where only its
carry is. `None` takes the place of such a leaf, so that the others keep their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import jax
from jax.extend.core import Var

from jsplit.core.paths import dotted
from jsplit.jaxprs.flat import Atom
from jsplit.jaxprs.slices import backward_slice
from jsplit.slicing.trace import SourceKind, Traced, Value

_Leaf = tuple[str, int]
"""A cut, and the number of one of its leaves."""


def unread_leaves(traces: Sequence[Traced]) -> dict[str, frozenset[int]]:
    """The numbers of the leaves, by cut, that no other segment reads in either mode.

    Args:
        traces: in both modes, with the same cuts.

    Returns:
        Cuts that have such leaves. One of which nothing is read is not among them:
        it separates nothing, which `divide` says.
    """
    search = _Search(traces)
    search.run(loose_statistics=False)
    # A statistic that no value reads is kept by whoever can compute it, who may be
    # behind the cut. Only now it is known which those are.
    search.run(loose_statistics=True)

    found: dict[str, frozenset[int]] = {}
    for name, value in traces[0].cuts.items():
        # Of another form in the other mode: no number means the same leaf in both.
        same = all(t.cuts[name].structure == value.structure for t in traces)
        numbers = range(len(value.atoms))
        unread = frozenset(i for i in numbers if (name, i) not in search.read)
        if same and 0 < len(unread) < len(value.atoms):
            found[name] = unread
    return found


def without(value: Value, unread: Iterable[int]) -> Value:
    """A value with `None` in the place of some of its leaves."""
    unread = set(unread)
    numbers = range(len(value.atoms))
    tree = value.structure.unflatten(None if i in unread else i for i in numbers)
    kept = [v for i, v in enumerate(value.atoms) if i not in unread]
    return Value(jax.tree.structure(tree), kept)


def paths_of(value: Value) -> tuple[str, ...]:
    """The paths at which a value has `None`."""
    tree = value.structure.unflatten(value.atoms)
    # A variable is a leaf to JAX, and `None` is one for once.
    places, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda x: x is None)
    return tuple(
        dotted(tuple(str(getattr(key, "key", key)) for key in path))
        for path, leaf in places
        if leaf is None
    )


class _Search:
    """Which leaves are read, and which segment keeps which statistic, as found so far."""

    def __init__(self, traces: Sequence[Traced]):
        self.traces = traces
        self.read: set[_Leaf] = set()
        self.keeper: dict[int, str] = {}
        self.leaves = [_leaves_of(trace) for trace in traces]
        # A value in two cuts is refused later, and stays in both until then.
        for leaves in self.leaves:
            for several in leaves.values():
                self.read.update(several if len(several) > 1 else ())

    def run(self, *, loose_statistics: bool) -> None:
        """Look at all segments, until nothing more is found."""
        known = -1
        # What a segment reads grows with what is read of it, and so on to the input.
        while known != (known := len(self.read) + len(self.keeper)):
            for trace, leaves in zip(self.traces, self.leaves, strict=True):
                for name in trace.values:
                    self._look_at(trace, leaves, name)
                if loose_statistics:
                    states = range(len(trace.new_state))
                    loose = [i for i in states if i not in self.keeper]
                    ends = [trace.new_state[i] for i in loose]
                    piece = backward_slice(trace.flat, ends, trace.stops(""))
                    for v in piece.reads:
                        self.read.update(leaves.get(v, ()))

    def _look_at(
        self, trace: Traced, leaves: Mapping[Var, list[_Leaf]], name: str
    ) -> None:
        """Find what the segment of one value reads."""
        atoms = trace.values[name].atoms
        if name in trace.cuts:
            atoms = [v for i, v in enumerate(atoms) if (name, i) in self.read]
        kept = [i for i, keeper in self.keeper.items() if keeper == name]
        ends: list[Atom] = [*atoms, *(trace.new_state[i] for i in kept)]
        piece = backward_slice(trace.flat, ends, trace.stops(name))
        for v in piece.reads:
            self.read.update(leaf for leaf in leaves.get(v, ()) if leaf[0] != name)
            source = trace.sources.get(v)
            if source is not None and source.kind == SourceKind.STATE:
                self.keeper.setdefault(source.leaf, name)


def _leaves_of(trace: Traced) -> dict[Var, list[_Leaf]]:
    """By variable, the leaf of a cut that it is; of several cuts that hold it, all."""
    found: dict[Var, list[_Leaf]] = {}
    for name, value in trace.cuts.items():
        for i, v in enumerate(value.atoms):
            if isinstance(v, Var):
                found.setdefault(v, []).append((name, i))
    return found
