"""What `plan` answers: the choices of a cut, as records that print, draw and keep.

A new aim beside seconds, bytes and leakage is a field of `Choice`, and a
term of `aims`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jsplit.core.html import Table, html_of
from jsplit.core.tables import aligned, plain, scatter, si
from jsplit.costing.leak_picture import MARK, Dot, leak_picture
from jsplit.costing.leak_scores import Leak
from jsplit.costing.party_cost import Work
from jsplit.slicing.cut_point import CutPoint

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
        leakage: What leaks there, if anybody has said.
        fits: Whether the client has the memory.
        front: Whether it fits, has a score if others have, and no other
            choice that fits is as good in everything and better in
            something.
        larger_leaks: Whether more of `leakage` is worse; of an error that
            an attack makes it is better.
        measure: What `leakage` is, as "AUC", if that was said.
        interval: Within which it lies, if that was said.
        chance: What a guess gets, if that was said. `leakage` is that at least: where an
            attack did worse, it failed, and nobody is protected by that.
        doubt: Why more may leak: attacks that had not converged, or that all failed.

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
    larger_leaks: bool = True
    measure: str = ""
    interval: tuple[float, float] | None = None
    chance: float | None = None
    doubt: str = ""

    def scored(self, leak: Leak | None) -> Choice:
        """The same place with what leaks there.

        Args:
            leak: What is known of it.

        Returns:
            A choice.

        Example:
            >>> import jsplit
            >>> from jsplit.costing import Choice, Work
            >>> from jsplit.costing.leak_scores import Leak
            >>> point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
            >>> choice = Choice(point, 0.5, 300, Work(16, 40.0), 64, None, fits=True)
            >>> choice.scored(Leak(0.02, larger_leaks=False, measure="MSE")).leakage
            0.02
        """
        if leak is None:
            return self
        return self._replace(
            leakage=leak.value,
            larger_leaks=leak.larger_leaks,
            measure=leak.measure,
            interval=leak.interval,
            chance=leak.chance,
            doubt=leak.doubt,
        )

    @property
    def aims(self) -> tuple[float, ...]:
        """What is to be small, all of it.

        Returns:
            Seconds, bytes and, if there is a score, what leaks.

        Example:
            >>> import jsplit
            >>> from jsplit.costing import Choice, Work
            >>> point = jsplit.CutPoint("h", (4,), "float32", 8, 32, 16, 8.0, 8.0)
            >>> Choice(point, 0.5, 300, Work(16, 40.0), 64, None, fits=True).aims
            (0.5, 300)
        """
        if self.leakage is None:
            return self.seconds, self.bytes
        leak = self.leakage if self.larger_leaks else -self.leakage
        return self.seconds, self.bytes, leak


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
        """A scatter plot of client FLOPs against bytes of a step, or of what leaks.

        Where cuts have a score it is drawn against the bytes, coloured by
        the seconds; cuts without one are left out, and the table has them.
        The front of what is drawn is marked: without scores that of FLOPs
        and bytes, which is the same on every network, while the table's is
        of seconds and bytes.

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
        scored = [c for c in self.choices if c.leakage is not None]
        if scored:
            first = scored[0]
            name = first.measure or "leakage"
            label = f"{name} (farther up leaks more)"
            dots = [_dot(c) for c in scored]
            return leak_picture(dots, label, larger_leaks=first.larger_leaks)
        # No seconds: they follow from the two, and change with the machines. So does
        # their front, and a mark that no axis explains is read wrongly.
        fitting = [_drawn(c) for c in self.choices if c.fits]
        points = []
        for c in self.choices:
            front = c.fits and not any(beats(at, _drawn(c)) for at in fitting)
            points.append((*_drawn(c), c.point.name, front, c.fits))
        return scatter(points, "client FLOPs per step", "bytes per step, both ways")

    def _table(self) -> tuple[Table, list[str]]:
        """The table, and the notes below it."""
        columns = ["cut", "front", "seconds", "bytes"]
        measure = next((c.measure for c in self.choices if c.measure), "")
        columns += ["MACs", "FLOPs", "memory", f"leakage {measure}".strip()]
        asked = any(c.leakage is not None for c in self.choices)
        doubts = [*dict.fromkeys(c.doubt for c in self.choices if c.doubt)]
        rows = []
        for c in self.choices:
            # What does not fit is on no front, so one column is enough for all.
            mark = "*" if c.front else "" if c.fits else "too large"
            if asked and c.leakage is None and c.fits:
                mark = "no score"
            rows.append(
                [
                    c.point.name,
                    mark,
                    f"{c.seconds:.4g}",
                    si(c.bytes),
                    si(c.work.macs),
                    si(c.work.flops),
                    si(c.memory),
                    _leak_in_words(c, doubts),
                ]
            )
        notes = [f"{MARK}{n} {x}" for n, x in enumerate(doubts, start=1)]
        if any(c.chance is not None for c in self.choices):
            less = any(not c.larger_leaks for c in self.choices)
            notes.append(f"guess: without looking{'; less leaks more' if less else ''}")
        return Table(columns, rows), notes

    def __str__(self) -> str:
        table, notes = self._table()
        return "\n".join([*aligned(table.heads, table.rows), *notes])

    def _repr_html_(self) -> str:
        table, notes = self._table()
        return html_of([table], *notes)


def _leak_in_words(c: Choice, doubts: Sequence[str]) -> str:
    # Empty without a score: 0 would be the best there is.
    if c.leakage is None:
        return ""
    parts = [f"{c.leakage:.3g}"]
    if c.interval is not None:
        parts.append(f"[{c.interval[0]:.3g}, {c.interval[1]:.3g}]")
    if c.chance is not None:
        parts.append(f"(guess {c.chance:.3g})")
    if c.doubt:
        parts.append(f"{MARK}{doubts.index(c.doubt) + 1}")
    return " ".join(parts)


def _dot(c: Choice) -> Dot:
    assert c.leakage is not None
    name = c.point.name
    place = name, c.bytes, c.seconds, c.leakage, c.interval
    return Dot(*place, c.front, c.fits, c.chance, bool(c.doubt))


def _drawn(c: Choice) -> tuple[float, float]:
    """Its place in a picture without scores."""
    return c.work.flops, c.bytes


def beats(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether nothing of `a` is larger than of `b`, and something is smaller."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def is_better(a: Choice, b: Choice) -> bool:
    """Whether `a` fits, is as good as `b` in everything, and better in something."""
    # One whose leak nobody knows may be worse there than any.
    if (a.leakage is None) != (b.leakage is None):
        return False
    return a.fits and beats(a.aims, b.aims)
