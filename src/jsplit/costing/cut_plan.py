"""What `plan` answers: the choices of a cut, as records that print, draw and keep.

A new aim beside seconds, bytes and leakage is a field of `Choice`, and a
term of `is_better`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jsplit.core.tables import aligned, plain, scatter, si
from jsplit.costing.party_cost import Work
from jsplit.slicing.cut_candidates import CutPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Choice(NamedTuple):
    """One place to cut, and what a training step then costs.

    Attributes:
        point: The place.
        seconds: Of a step: the client's arithmetic, the server's if known,
            and the two messages, one after the other.
        bytes: Of the activation and of its cotangent, encoded, with their
            frames.
        work: The client's arithmetic, forward and back.
        memory: Bytes at the client: parameters, statistics, optimizer
            state, and what it keeps for the backward pass.
        leakage: The score asked for, if any; less is better.
        fits: Whether the client has the memory.
        front: Whether it fits, and no other choice that fits is as good in
            everything and better in something.

    Example:
        >>> import jsplit
        >>> from jsplit.costing import Choice, Work
        >>> point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
        >>> Choice(point, 0.5, 300, Work(16, 40.0), 64, None, fits=True).front
        False
    """

    point: CutPoint
    seconds: float
    bytes: int
    work: Work
    memory: int
    leakage: float | None
    fits: bool
    front: bool = False  # known when all choices are there


@dataclass(frozen=True)
class CutPlan:
    """All choices of a cut, the quickest that fits first. Printing it shows a table.

    Attributes:
        choices: One for every cut point with parameters before it.

    Example:
        >>> import jsplit
        >>> from jsplit.costing import Choice, CutPlan, Work
        >>> point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
        >>> choice = Choice(point, 0.5, 300, Work(16, 40.0), 64, None, True, True)
        >>> print(CutPlan((choice,)))
        cut  front  seconds  bytes  MACs  FLOPs  memory  leakage
        h        *      0.5    300    16     40      64
    """

    choices: tuple[Choice, ...]

    # Computed, so that the two can never disagree.
    @property
    def front(self) -> tuple[Choice, ...]:
        """The Pareto front of seconds, bytes and, if scored, leakage.

        Returns:
            Those choices that nothing beats, the quickest first.

        Example:
            >>> import jsplit
            >>> from jsplit.costing import Choice, CutPlan, Work
            >>> point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
            >>> choice = Choice(point, 0.5, 300, Work(16, 40.0), 64, None, True, True)
            >>> [c.point.name for c in CutPlan((choice,)).front]
            ['h']
        """
        return tuple(c for c in self.choices if c.front)

    def to_json(self) -> str:
        """All choices as a JSON list.

        Returns:
            A text; each choice is an object with the names of its
            attributes.

        Example:
            >>> from jsplit.costing import CutPlan
            >>> CutPlan(()).to_json()
            '[]'
        """
        return json.dumps([plain(c) for c in self.choices], indent=1)

    def figure(self) -> Figure:
        """A scatter plot of client FLOPs against bytes of a step.

        Both axes are logarithmic; the front is marked.

        Returns:
            A figure of Matplotlib's own, not pyplot's, so it opens no
            window.

        Example:
            >>> import jsplit
            >>> from jsplit.costing import Choice, CutPlan, Work
            >>> point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
            >>> choice = Choice(point, 0.5, 300, Work(16, 40.0), 64, None, True, True)
            >>> CutPlan((choice,)).figure().axes[0].get_xscale()
            'log'
        """
        # No seconds: they follow from the two, and change with the machines.
        points = [
            (c.work.flops, c.bytes, c.point.name, c.front, c.fits) for c in self.choices
        ]
        return scatter(points, "client FLOPs per step", "bytes per step, both ways")

    def __str__(self) -> str:
        columns = ["cut", "front", "seconds", "bytes"]
        columns += ["MACs", "FLOPs", "memory", "leakage"]
        rows = []
        for c in self.choices:
            # What does not fit is on no front, so one column is enough for both.
            mark = "*" if c.front else "" if c.fits else "too large"
            # Empty without a score: 0 would be the best there is.
            leakage = "" if c.leakage is None else f"{c.leakage:.3g}"
            rows.append(
                [
                    c.point.name,
                    mark,
                    f"{c.seconds:.4g}",
                    si(c.bytes),
                    si(c.work.macs),
                    si(c.work.flops),
                    si(c.memory),
                    leakage,
                ]
            )
        return "\n".join(aligned(columns, rows))


def is_better(a: Choice, b: Choice) -> bool:
    """Whether `a` fits, is as good as `b` in everything, and better in something."""
    # A plan scores all choices or none: a missing score then decides nothing.
    ours = (a.seconds, a.bytes, a.leakage or 0.0)
    theirs = (b.seconds, b.bytes, b.leakage or 0.0)
    as_good = all(x <= y for x, y in zip(ours, theirs, strict=True))
    return a.fits and as_good and ours != theirs
