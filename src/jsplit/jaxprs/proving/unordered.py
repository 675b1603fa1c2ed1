"""Entries that are there, though it depends on the records where: sorted, picked, of a branch.

Who gets them has entries of the field as they are, and is not told whose they are. So they
are a part of the field, as what a threshold lets through is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jsplit.jaxprs.proving.facts import NONE, Fact, giving

UNORDERED = {"sort", "top_k"}
"""Primitives that move the entries of their arguments to places that depend on them."""


def somewhere(facts: Sequence[Fact], result: Fact) -> Fact:
    """A result that has entries of what is given, at places that nobody is told.

    Args:
        facts: what gives entries.
        result: as `facts.plain` gives it.
    """
    givers = [f for f in facts if f.gives]
    if not givers:
        return result
    block = np.unique(np.concatenate([f.given() for f in givers]))
    found = giving(result, givers, None, block)
    return replace(found, some=True, slope=0)


def unordered(name: str, facts: Sequence[Fact], results: Sequence[Fact]) -> list[Fact]:
    """The results of a primitive of `UNORDERED`."""
    moved = facts if name == "sort" else facts[:1]
    return [
        somewhere(moved[i : i + 1], r) if not r.gives else r
        for i, r in enumerate(results)
    ]


def either(cases: Sequence[Fact], result: Fact) -> Fact:
    """What is proven of an array that is one of several, it depends on the records which.

    Args:
        cases: the arrays.
        result: as `facts.plain` gives it.
    """
    if not cases or not all(c.gives for c in cases):
        return result
    first = cases[0]
    if all(_same(first, c) for c in cases[1:]):
        return giving(result, cases, first.ids, first.block)
    common = cases[0].given()
    for c in cases[1:]:
        common = np.intersect1d(common, c.given())
    found = giving(result, cases, None, common)
    return replace(found, some=True, slope=0) if found.gives else result


def _same(a: Fact, b: Fact) -> bool:
    """Whether two arrays have the same entries, as they are, at the same places."""
    if a.ids is None or b.ids is None or not np.array_equal(a.ids, b.ids):
        return False
    if (a.ids == NONE).any() or a.affine is None or b.affine is None:
        return False
    one, other = a.affine.rows(), b.affine.rows()
    pure = a.affine.pure and b.affine.pure
    same = one is not None and other is not None and np.array_equal(one, other)
    return pure and same
