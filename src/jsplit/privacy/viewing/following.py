"""All variables of a walk that observers can compute of the messages that they get.

The parts of all parties are one program to who asks what follows from its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable

from jax.extend.core import Var

from jsplit.jaxprs.flat import Atom
from jsplit.jaxprs.proving.recovery import Recovery, rounds
from jsplit.jaxprs.proving.terms import Terms
from jsplit.privacy.viewing.tracing import Traced
from jsplit.training.walk import Address, Name, Wire


def follow(
    traced: Traced,
    wires: Collection[Wire],
    observers: Collection[str],
    is_known: Callable[[Name], bool | None],
) -> list[tuple[Var, bool, bool]]:
    """The variables of others that follow from messages.

    Args:
        traced: the walk.
        wires: the messages that are looked at, together.
        observers: who get them.
        is_known: of what a walk starts from, whether they have it; `None` of what is
            no field and not theirs.

    Returns:
        Of each variable, whether only some entries are known, and whether rounded.
    """
    terms, sent, known = _as_terms(traced, observers, is_known)
    got = [t for w in wires for t in sent.get(w, ())]
    if not any(terms.all[t].op != "input" or t not in known for t in got):
        return []
    found = Recovery(terms, [*known, *got])
    follows = {v: (v, False, False) for v, t in terms.of.items() if found.has(t)}
    for v, t in terms.of.items():
        if v not in follows and found.bare(t) in found.partly:
            follows[v] = (v, True, False)
    if rounds(terms):
        found = Recovery(terms, [*known, *got], rounding=True)
        for v, t in terms.of.items():
            if v not in follows and found.has(t):
                follows[v] = (v, False, True)
    return [*follows.values()]


def _as_terms(
    traced: Traced,
    observers: Collection[str],
    is_known: Callable[[Name], bool | None],
) -> tuple[Terms, dict[Wire, list[int]], set[int]]:
    """A walk as terms; those of its messages; and those that the observers begin with."""
    terms = Terms()
    known: set[int] = set()
    sent: dict[Wire, list[int]] = {}
    made: dict[Address, list[Atom]] = {}

    def begin(v: Var, key: Hashable, has: bool) -> None:
        t = terms.start(v, key)
        if has:
            known.add(t)

    for part in traced.parts:
        inputs = iter(part.flat.invars)
        for name in part.op.reads:
            leaves = made.get(name)
            count = len(traced.start[name] if leaves is None else leaves)
            for i in range(count):
                v = next(inputs)
                if leaves is not None:
                    t = terms.term(leaves[i])
                    # What nobody can follow is known to who gets or sends it.
                    theirs = isinstance(name, Wire) and bool(
                        {*observers} & {name.sender, name.receiver}
                    )
                    if t is not None:
                        terms.of[v] = t
                    elif theirs:
                        begin(v, (name, i), True)
                    continue
                assert isinstance(name, Name)
                has = is_known(name)
                if has is not None:
                    # A field that two parties hold is one field.
                    field = has is False or name.kind == "value"
                    begin(v, (name.what, i) if field else (name, i), has)
        terms.add(part.flat)
        results = iter(part.flat.outvars)
        for name, shapes in part.shapes.items():
            made[name] = [next(results) for _ in shapes]
            if isinstance(name, Wire):
                own = [terms.term(v) for v in made[name]]
                sent[name] = [t for t in own if t is not None]
    return terms, sent, known
