"""Axes of a model's inputs beyond the batch that may have other sizes, as a sequence length.

Found by tracing the model at a second size of each; and solved from the sizes of a cut,
for a segment that sees no input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice, product
from math import ceil, floor
from typing import NamedTuple

Shape = tuple[int, ...]

Place = tuple[str, int, int]
"""An axis of a cut: its name, the number of the leaf, the number of the axis."""

CutShapes = Mapping[str, Sequence[Shape]]
"""The shapes of the leaves of each cut."""

Run = Callable[[Sequence[Shape]], CutShapes | None]
"""From the shapes of all leaves of the inputs to those of cuts; `None`: it does not run."""

# An answer is verified by tracing the model there, so there is an end to trying.
_TRIED = 12


class FreeAxis(NamedTuple):
    """Axes of inputs that have one size together, which may be another.

    Attributes:
        places: (leaf, axis) of the inputs.
        size: in the example.
        slopes: by axis of a cut, how much longer it is for each entry more.
    """

    places: tuple[tuple[int, int], ...]
    size: int
    slopes: Mapping[Place, Fraction]


class FreeAxes(NamedTuple):
    """All free axes of a model.

    Attributes:
        example: the shapes of the leaves of its inputs.
        cuts: those of the cuts of that example.
        axes: which may be of another size.
    """

    example: Sequence[Shape]
    cuts: CutShapes
    axes: Sequence[FreeAxis]


def find_free_axes(example: Sequence[Shape], run: Run) -> FreeAxes:
    """Find the axes that may have another size, each alone or with others of its size.

    Args:
        example: the shapes of the leaves of a model's inputs, at which it runs.
        run: traces it at others.
    """
    cuts = run(example) or {}
    axes: list[FreeAxis] = []
    bound: dict[int, list[tuple[int, int]]] = {}
    for leaf, shape in enumerate(example):
        for axis in range(1, len(shape)):
            places = ((leaf, axis),)
            if found := _tried(example, cuts, run, places):
                axes.append(found)
            else:
                bound.setdefault(shape[axis], []).append(*places)
    # What cannot change alone may change together: tokens and their mask.
    for places in bound.values():
        together = len(places) > 1 and _tried(example, cuts, run, tuple(places))
        if together:
            axes.append(together)
    return FreeAxes(example, cuts, axes)


def _tried(
    example: Sequence[Shape],
    cuts: CutShapes,
    run: Run,
    places: tuple[tuple[int, int], ...],
) -> FreeAxis | None:
    leaf, axis = places[0]
    size = example[leaf][axis]
    # A table of positions may end at the example's size, patches divide it. None is 1,
    # at which everything broadcasts.
    for other in dict.fromkeys((2 * size + 1, size - 1, size // 2, 2 * size)):
        if other < 2 or other == size:
            continue
        changed = dict.fromkeys(places, other)
        after = run(_with(example, changed))
        if after is None:
            continue
        slopes: dict[Place, Fraction] = {}
        for name, shapes in cuts.items():
            for i, (old, new) in enumerate(zip(shapes, after[name], strict=False)):
                for k, (n, m) in enumerate(zip(old, new, strict=False)):
                    if n != m:
                        slopes[name, i, k] = Fraction(m - n, other - size)
        return FreeAxis(places, size, slopes)
    return None


def solutions(
    free: FreeAxes, known: Mapping[int, Shape], wanted: CutShapes
) -> Iterator[list[Shape]]:
    """Shapes of all inputs that may give cuts of some shapes, most likely ones first.

    Args:
        free: the axes of the model.
        known: by number, leaves whose shapes are known.
        wanted: the shapes of some cuts; sizes may be symbolic.

    Yields:
        The shapes of all leaves. Whether they give these cuts, tracing tells.
    """
    options: dict[int, list[int]] = {}
    for number, axis in enumerate(free.axes):
        for leaf, k in axis.places:
            if leaf in known:
                options[number] = [known[leaf][k]]
    unsolved = True
    while unsolved:
        unsolved = False
        for number in range(len(free.axes)):
            if number in options:
                continue
            found = _sizes_of(free, number, options, wanted)
            if found:
                options[number] = found
                unsolved = True

    # The axes that no cut tells of stay as they were.
    several = [options.get(n, [axis.size]) for n, axis in enumerate(free.axes)]
    for sizes in islice(product(*several), _TRIED):
        changed: dict[tuple[int, int], int] = {}
        for axis, size in zip(free.axes, sizes, strict=True):
            changed.update(dict.fromkeys(axis.places, size))
        shapes = _with(free.example, changed)
        yield [known.get(i, shape) for i, shape in enumerate(shapes)]


def _sizes_of(
    free: FreeAxes,
    number: int,
    options: Mapping[int, Sequence[int]],
    wanted: CutShapes,
) -> list[int]:
    """The sizes that one axis may have, from an axis of a cut that depends on no other unknown."""
    axis = free.axes[number]
    for place, slope in axis.slopes.items():
        name, leaf, k = place
        if name not in wanted:
            continue
        rest = wanted[name][leaf][k] - free.cuts[name][leaf][k]
        others = [n for n in range(len(free.axes)) if n != number]
        others = [n for n in others if place in free.axes[n].slopes]
        if any(n not in options for n in others):
            continue
        for n in others:
            rest -= int(free.axes[n].slopes[place]) * (
                options[n][0] - free.axes[n].size
            )
        if not isinstance(rest, int):
            # Symbolic, of an export.
            steps = int(slope)
            return [axis.size + rest // steps] if steps == slope else []
        return _near(axis.size + rest / slope, slope)
    return []


def _near(size: Fraction, slope: Fraction) -> list[int]:
    """Whole sizes, from the nearest on, of which several may give the same."""
    if slope.denominator == 1 and size.denominator == 1:
        return [int(size)] if size >= 1 else []
    width = ceil(1 / abs(slope))
    around = range(floor(size) - width, ceil(size) + width + 1)
    return sorted((n for n in around if n >= 1), key=lambda n: (abs(n - size), n))


def _with(
    example: Sequence[Shape], changed: Mapping[tuple[int, int], int]
) -> list[Shape]:
    found = [list(shape) for shape in example]
    for (leaf, axis), size in changed.items():
        found[leaf][axis] = size
    return [tuple(shape) for shape in found]
