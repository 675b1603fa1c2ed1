"""A traced model rewritten so that what goes around a cut goes with it.

The values that close a cut become part of its value, and all that is computed after the
cut reads them there. Cuts are closed in the order in which they are computed, so a value
that several segments need goes from each to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import DropVar, Var

from jsplit.core.carried import Carried
from jsplit.core.checks import shown
from jsplit.jaxprs.flat import Atom, Equation, Flat, shape_of
from jsplit.slicing.around import Around, around
from jsplit.slicing.handing import ways_of
from jsplit.slicing.said_values import said_value
from jsplit.slicing.separators import labels as labels_of
from jsplit.slicing.separators import names_of_values
from jsplit.slicing.telling import telling
from jsplit.slicing.trace import LEAF, Source, SourceKind, Traced, Value

_TAG = "jsplit.carried"

AroundCut = Literal["refuse", "carry"]
"""What becomes of values that go around a cut."""


def is_carried(around: AroundCut) -> bool:
    """Whether what goes around a cut goes with it.

    Raises:
        ValueError: if `around` is none of its two words.
    """
    if around not in ("refuse", "carry"):
        raise ValueError(f'`around` must be "refuse" or "carry", got {shown(around)}.')
    return around == "carry"


Record = dict[str, tuple[Carried, ...]]
"""By cut, what is carried with it."""


def carry(
    trace: Traced,
    public: Collection[str],
    known: Mapping[str, Sequence[Carried]] | None,
) -> tuple[Traced, Record]:
    """Close every cut of a trace.

    Args:
        trace: with its cuts.
        public: inputs that anyone may read, and that are not carried.
        known: what is carried in the other traces of the model.

    Returns:
        The trace, and what is carried in it.

    Raises:
        ValueError: if it is not what is carried in the others.
    """
    # The names that users know, and those of operations.
    known_names = labels_of(trace.flat)
    labels = names_of_values(trace.flat, trace.secret(public))
    made_from = _made_from(trace)
    record: Record = {}
    before_it: list[str] = []
    for name in trace.cuts_in_order:
        found = _closing(trace, name, public)
        if found is None:
            continue
        fresh = {v: Var(v.aval) for v in found.carried}
        carried = [
            _carried(trace, v, known_names.get(v), labels[v], made_from[v])
            for v in found.carried
        ]
        before = None if known is None else known.get(name, ())
        named = _named(name, carried, before, trace.cuts[name])
        ways = ways_of(trace, found, [c.name for c in named], before_it)
        trace, called = _rewritten(trace, name, found, fresh, named)
        trace = trace._replace(handed={**trace.handed, name: ways})
        before_it.append(name)
        if named:
            record[name] = named
        for v, own in called.items():
            labels[own], made_from[own] = labels.get(v, ""), made_from[v]
            if v in known_names:
                known_names[own] = known_names[v]
        example = {own: trace.example.get(v, v) for v, own in called.items()}
        trace = trace._replace(example={**example, **trace.example})
    if known is not None and known.keys() != record.keys():
        raise _differs(sorted(known.keys() ^ record.keys())[0])
    return trace, record


def _closing(trace: Traced, name: str, public: Collection[str]) -> Around | None:
    """What closes a cut, and if that can be tells no raw input."""
    first = found = around(trace, name, public)
    avoided: frozenset[Var] = frozenset()
    while found is not None and (told := telling(trace, found.carried, public)):
        avoided |= told
        found = around(trace, name, public, avoided)
    # Where all that closes it tells one, the topology says so of the fewest bytes.
    return first if found is None else found


def _made_from(trace: Traced) -> dict[Var, tuple[str, ...]]:
    """By variable, the inputs that it is computed from."""
    found: dict[Var, tuple[str, ...]] = {}
    for v, source in trace.sources.items():
        found[v] = (source.name,) if source.kind == SourceKind.FIELD else ()
    for e in trace.flat.equations:
        names = [n for v in e.reads for n in found.get(v, ())]
        found.update(dict.fromkeys(e.writes, tuple(dict.fromkeys(names))))
    return found


def _carried(
    trace: Traced, v: Var, name: str | None, label: str, made_from: tuple[str, ...]
) -> Carried:
    dtype, sizes = shape_of(v).dtype, trace.sizes_of(v)
    if name is None:
        kind = "mask" if dtype.kind == "b" else label.rpartition("/")[2]
        name = f"{kind} of {', '.join(made_from)}" if made_from else label
    size = dtype.itemsize * prod(sizes)
    return Carried(name, sizes, dtype, size, made_from, said_value(trace, v))


def _named(
    cut: str, found: Sequence[Carried], before: Sequence[Carried] | None, value: Value
) -> tuple[Carried, ...]:
    """The same with names that are unique in the cut, or those of the other traces."""
    if before is not None:
        if [c[1:4] for c in before] != [c[1:4] for c in found]:
            raise _differs(cut)
        return tuple(before)
    taken = set(_own(cut, value))
    named: list[Carried] = []
    for c in found:
        name, i = c.name, 1
        while name in taken:
            i += 1
            name = f"{c.name}#{i}"
        taken.add(name)
        named.append(c._replace(name=name))
    return tuple(named)


def _differs(cut: str) -> ValueError:
    return ValueError(
        f"what goes around the cut `{cut}` is not the same in training and inference, or "
        "at two batch sizes, so no one set of values can be carried with it; make what "
        "crosses part of the cut."
    )


def _own(cut: str, value: Value) -> dict[str, Atom]:
    """The values of a cut itself by their keys."""
    if value.structure == LEAF:
        return {cut: value.atoms[0]}
    return value.structure.unflatten(value.atoms)


def _rewritten(
    trace: Traced,
    name: str,
    found: Around,
    fresh: Mapping[Var, Var],
    record: Sequence[Carried],
) -> tuple[Traced, dict[Var, Var]]:
    """A trace in which all that comes after a cut reads what is carried in its value.

    Also what each value is called after the cut.
    """
    rewriter = _Rewriter(found, fresh)
    flat = rewriter.run(trace.flat)

    def renamed(value: Value) -> Value:
        return Value(value.structure, [rewriter.after(v) for v in value.atoms])

    def is_after(value: Value) -> bool:
        atoms = [found.of(v) for v in value.atoms if isinstance(v, Var)]
        return not found.after.isdisjoint(atoms)

    value = trace.cuts[name]
    if record:
        keyed = _own(name, value)
        keyed |= {c.name: v for c, v in zip(record, fresh.values(), strict=True)}
        value = Value(jax.tree.structure(keyed), jax.tree.leaves(keyed))
    cuts = {n: renamed(x) if is_after(x) else x for n, x in trace.cuts.items()}
    outputs = {n: renamed(x) if is_after(x) else x for n, x in trace.outputs.items()}

    def is_theirs(leaf: int, update: Atom) -> bool:
        if not isinstance(update, Var):
            return False
        # A statistic of the other side, updated of what was carried (a cached mask).
        own = trace.variables[Source(SourceKind.STATE, leaf)]
        return found.of(update) in found.after or not found.beyond.isdisjoint(own)

    state = [
        rewriter.after(v) if is_theirs(i, v) else v
        for i, v in enumerate(trace.new_state)
    ]
    trace = trace._replace(
        flat=flat, cuts={**cuts, name: value}, outputs=outputs, new_state=state
    )
    return trace, rewriter.called


class _Rewriter:
    """What the values of a trace are called after a cut."""

    def __init__(self, found: Around, fresh: Mapping[Var, Var]):
        self.found, self.fresh = found, fresh
        # By the first variable with the value.
        self.called: dict[Var, Var] = {**found.own, **fresh}
        self.fixed = {*found.own.values()}

    def after(self, v: Atom) -> Atom:
        """What a value is called after the cut."""
        if not isinstance(v, Var) or v in self.fixed:
            return v
        return self.called.get(self.found.of(v), v)

    def run(self, flat: Flat) -> Flat:
        found, equations = self.found, []
        for e in flat.equations:
            firsts = [found.of(v) for v in e.writes]
            if any(v in found.after for v in firsts):
                equations.append(self._renamed(e, list(e.eqn.outvars)))
                continue
            equations.append(e)
            equations += [self._sent(e, v) for v in e.writes if v in self.fresh]
            # What both sides compute is there twice, once from what was carried.
            reads = {found.of(v) for v in e.reads} & (self.called.keys() - found.own)
            if reads and any(v in found.beyond for v in e.writes):
                equations.append(self._renamed(e, self._again(e)))
        return flat._replace(equations=equations)

    def _again(self, e: Equation) -> list[Var]:
        """Variables for the results of an equation that is there once more."""
        outvars: list[Var] = []
        for v in e.eqn.outvars:
            own = v if isinstance(v, DropVar) else Var(v.aval)
            if v in self.found.beyond:
                self.called[v] = own
            outvars.append(own)
        return outvars

    def _renamed(self, e: Equation, outvars: list[Var]) -> Equation:
        invars = [self.after(v) for v in e.eqn.invars]
        return Equation(
            e.eqn.replace(invars=invars, outvars=outvars),
            e.regions,
            [v for v in invars if isinstance(v, Var)],
            [v for v in outvars if not isinstance(v, DropVar)],
        )

    def _sent(self, e: Equation, v: Var) -> Equation:
        """The equation that gives a value the name under which it crosses."""
        named = jax.make_jaxpr(lambda x: checkpoint_name(x, _TAG))(shape_of(v))
        own = self.fresh[v]
        eqn = named.jaxpr.eqns[0].replace(invars=[v], outvars=[own])
        # In the region of what it names, which another one would divide in two.
        return Equation(eqn, e.regions, [v], [own])
