"""What is proven of one array: what it depends on, and which entries of fields it gives away.

An array gives an entry away if a function of the array, of constants of the code, and of
what the observers have anyway, is that entry. Whatever is not proven is not claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

NONE = -1
"""In the place of an entry of a field: nothing is known."""

_LARGEST = 1 << 24  # entries of a constant that is computed


class Atom(NamedTuple):
    """Something that a step starts from, of which values are computed.

    Attributes:
        kind: "field", "params", "state", ..., as `Kind` has them.
        name: of the field, node or party; "" of what all have.
    """

    kind: str
    name: str


SHARED = frozenset({"params", "state", "strength"})
"""Kinds of atoms that are the same for all records of a batch, and no noise."""

Atoms = frozenset[Atom]


class Affine(NamedTuple):
    """Entries as sums of entries of fields, each with a factor that the code says.

    Attributes:
        basis: sorted numbers of the entries of fields.
        rows: gives the factors, [basis, *shape], NaN where they are not known; `None`
            where they cannot be computed.
        pure: whether an entry is such a sum, up to what observers have; else it tells
            the sum.
    """

    basis: np.ndarray
    rows: Callable[[], np.ndarray | None]
    pure: bool


Range = tuple[float, float]
"""From, to; without its ends, unless they are one number."""


class Piece(NamedTuple):
    """A curve between two places.

    Attributes:
        at: its value, at the ends too.
        value: the range of its values.
        slope: that of its derivative.
    """

    at: Callable[[float], float]
    value: Range
    slope: Range


class Curve(NamedTuple):
    """What each entry of an array is of an entry of another one.

    Attributes:
        of: the other array; `None` where that is known otherwise.
        pieces: of it.
        cuts: the places between these, rising.
        points: its values there.
    """

    of: Fact | None
    pieces: tuple[Piece, ...]
    cuts: tuple[float, ...] = ()
    points: tuple[float, ...] = ()


class Bits(NamedTuple):
    """What floats keep of an entry, of fields whose values are up to 1, by rough bounds.

    Attributes:
        part: of an entry's size, how much it moves with the entry of the field.
        low: the least size of an entry.
        high: the largest.
        lost: of whole numbers, how many of the highest bits wrapped around.
    """

    part: float = 1.0
    low: float = 1.0
    high: float = 1.0
    lost: int = 0


# Compared by identity: a rule asks whether two arrays are the same one.
@dataclass(frozen=True, eq=False)
class Fact:
    """What is proven of one array.

    Attributes:
        shape: of the array.
        dtype: of the array.
        deps: all that it depends on.
        unknown: of these, what the observers do not have.
        ids: by entry of the array, the number of the entry of a field that it gives
            away all by itself, or `NONE`; `None`: no entry gives one.
        block: sorted numbers of what all entries together give away.
        key: atoms without which what is given away is known only up to them: up to a
            shift, a scale, a table.
        rounded: whether it is only so to fewer bits.
        some: whether it is only so of entries that a threshold or mask lets through.
        slope: +1 or -1 if an entry strictly rises or falls with the entry of the field.
        sign: +1 or -1 if all entries are positive or negative.
        classes: whether each line along the last axis has one number that is not 0, at
            the place of a class number.
        even: whether it is equal along the last axis; of a line of `classes`, whether
            the number is the same for every class.
        spread: whether each line along the last axis has one number at the place of a
            class number and another one elsewhere, the same two for every class.
        generic: whether it is made of a parameter in a way that leaves no entry 0 almost
            surely.
        distinct: whether each entry is made of a parameter of its own, so that no two
            are equal almost surely.
        const: gives the value, where it is a constant of the code.
        held: the same, of a PRNG key too, which is no array of NumPy.
        made: how it was made of other arrays, for rules about two steps.
        affine: the sums of entries of fields that its entries are.
        curve: what its entries are of those of another array, as `curves` has it.
        bits: what floats keep of what it gives away.
        most: the largest class number, where it is known.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    deps: Atoms = frozenset()
    unknown: Atoms = frozenset()
    ids: np.ndarray | None = None
    block: np.ndarray | None = None
    key: Atoms = frozenset()
    rounded: bool = False
    some: bool = False
    slope: int = 0
    sign: int = 0
    classes: bool = False
    even: bool = False
    spread: bool = False
    generic: bool = False
    distinct: bool = False
    const: Callable[[], np.ndarray | None] | None = None
    held: Callable[[], ArrayLike | None] | None = None
    made: tuple[str, tuple[Fact, ...]] | None = None
    affine: Affine | None = None
    curve: Curve | None = None
    bits: Bits = Bits()
    most: int | None = None

    @property
    def gives(self) -> bool:
        """Whether it gives any entry away."""
        return self.ids is not None or self.block is not None

    @property
    def clean(self) -> bool:
        """Whether it is the same for the observers, whatever their records are.

        Either they have it, or it is made of parameters alone.
        """
        return not self.unknown or all(a.kind in SHARED for a in self.deps)

    def value(self) -> np.ndarray | None:
        """The value of a constant; `None` of what is none, or too large to compute."""
        small = np.prod(self.shape, dtype=float) <= _LARGEST
        return self.const() if self.const and small else None

    def given(self) -> np.ndarray:
        """The numbers of all entries that it gives away, sorted."""
        found = [] if self.ids is None else [self.ids[self.ids != NONE].ravel()]
        found += [] if self.block is None else [self.block]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def known(self) -> Fact:
        """The same array at observers who have it."""
        return replace(Fact(self.shape, self.dtype, self.deps), sign=self.sign)


def constant(value: ArrayLike) -> Fact:
    """A constant of the code."""
    shape = np.shape(value)
    # A PRNG key has a dtype that NumPy does not know.
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    held: list[np.ndarray | None] = []

    def const() -> np.ndarray | None:
        if not held:
            held.append(as_numpy(value))
        return held[0]

    fact = Fact(tuple(shape), dtype, const=const, held=lambda: value)
    # Of one number it costs nothing; of large ones only a rule that asks computes it.
    return replace(fact, sign=sign_of(fact.value())) if not shape else fact


def as_numpy(value: ArrayLike) -> np.ndarray | None:
    """A value as an array of NumPy; `None` of a PRNG key."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # a PRNG key is no array of NumPy
        return None


def sign_of(value: np.ndarray | None) -> int:
    """+1 or -1 if all entries are positive or negative, else 0."""
    if value is None or not value.size or value.dtype.kind not in "iuf":
        return 0
    return int(bool((value > 0).all())) - int(bool((value < 0).all()))


def with_sign(fact: Fact) -> Fact:
    """A constant with its sign, found if it was not."""
    if fact.sign or fact.const is None:
        return fact
    return replace(fact, sign=sign_of(fact.value()))


def union(sets: Iterable[Atoms]) -> Atoms:
    """All atoms of several sets."""
    return frozenset().union(*sets)


def plain(shape: Sequence[int], dtype: np.dtype, facts: Sequence[Fact]) -> Fact:
    """A result of which nothing is proven but what it depends on."""
    deps, unknown = union(f.deps for f in facts), union(f.unknown for f in facts)
    return Fact(tuple(shape), dtype, deps, unknown)


def giving(
    result: Fact,
    facts: Sequence[Fact],
    ids: np.ndarray | None,
    block: np.ndarray | None = None,
) -> Fact:
    """A result that gives away what the facts among its arguments do.

    Args:
        result: as `plain` gives it.
        facts: arguments that the proof needs, with the conditions of each.
        ids: by entry of the result.
        block: of all entries together.
    """
    if ids is not None and not (ids != NONE).any():
        ids = None
    if block is not None and not block.size:
        block = None
    if ids is None and block is None:
        return result
    bearing = [f for f in facts if f.gives]
    slopes = {f.slope for f in bearing}
    return replace(
        result,
        ids=ids,
        block=block,
        # What the observers lack of the other arguments stands between them and the entry.
        key=union(
            [*(f.key for f in bearing), *(f.unknown for f in facts if not f.gives)]
        ),
        rounded=any(f.rounded for f in bearing),
        some=any(f.some for f in bearing),
        slope=slopes.pop() if len(slopes) == 1 else 0,
    )
