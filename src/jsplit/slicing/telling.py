"""What would go around a cut and tells a raw input all the same, so that other values do.

The fewest bytes may be a time in sines and cosines, of which whoever has both finds the
time. A topology refuses that, so it is not chosen where something learned closes the cut.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jax.extend.core import Var

from jsplit.jaxprs.flat import shape_of
from jsplit.jaxprs.proving.recovery import Recovery
from jsplit.jaxprs.proving.terms import Terms
from jsplit.slicing.trace import SourceKind, Traced


def telling(
    trace: Traced, carried: Sequence[Var], public: Collection[str]
) -> frozenset[Var]:
    """The values that tell together what is not public, if that is proven.

    Args:
        trace: where.
        carried: that would cross.
        public: inputs that anyone may read.

    Returns:
        Those that are made of inputs and the code alone; none if nothing is proven.
    """
    learned = {v for v, s in trace.sources.items() if s.kind is not SourceKind.FIELD}
    for e in trace.flat.equations:
        if not learned.isdisjoint(e.reads):
            learned.update(e.writes)
    # A mask tells of each entry one bit.
    plain = [v for v in carried if v not in learned and shape_of(v).dtype.kind != "b"]
    # Of symbolic sizes, as in an export, the rules say nothing.
    sizes = [n for v in plain for n in shape_of(v).shape]
    if not plain or not all(isinstance(n, int) for n in sizes):
        return frozenset()
    terms, secret = Terms(), trace.secret(public)
    first = {v: terms.start(v, s) for v, s in trace.sources.items()}
    terms.add(trace.flat)
    known = [t for v, t in first.items() if v not in secret and v not in learned]
    sent = [t for v in plain if (t := terms.term(v)) is not None]
    for rounding in (False, True):
        found = Recovery(terms, [*known, *sent], rounding)
        if any(
            found.has(first[v]) or found.bare(first[v]) in found.partly for v in secret
        ):
            return frozenset(plain)
    return frozenset()
