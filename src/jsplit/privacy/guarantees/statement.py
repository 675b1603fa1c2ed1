"""A statement: whose records are guaranteed what against whom, or none and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, exp, isfinite


@dataclass(frozen=True)
class Statement:
    """What is guaranteed of one party's records against one other.

    Attributes:
        party: whose records they are.
        about: `"features"` or `"labels"`.
        fields: which fields these are.
        against: who is meant: a party, several as `"a + b"`, or whoever gets the
            trained parameters.
        epsilon: of (epsilon, delta)-differential privacy; `None`: no guarantee.
        delta: its delta, 0 where none is needed.
        mu: of Gaussian differential privacy, where there is one.
        times: how often noise is drawn for one record, by the name of what has it.
        adjacency: which two data sets shall be hard to tell apart.
        formula: how epsilon was computed, with its numbers.
        source: of the formula.
        why: why there is no guarantee.
        assumptions: what must be so, and what jsplit cannot see.
        notes: what can be said that is no guarantee.

    Example:
        >>> from jsplit.privacy import Statement
        >>> print(Statement("lab", "labels", ("label",), "server", why=("no noise",)))
        labels (label) of lab against server: none
          why: no noise
    """

    party: str
    about: str
    fields: tuple[str, ...]
    against: str
    epsilon: float | None = None
    delta: float = 0.0
    mu: float | None = None
    times: tuple[tuple[str, int], ...] = ()
    adjacency: str = ""
    formula: str = ""
    source: str = ""
    why: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether anything is guaranteed: a finite epsilon.

        Returns:
            Whether it is.

        Example:
            >>> from jsplit.privacy import Statement
            >>> Statement("lab", "labels", ("label",), "server").holds
            False
        """
        return self.epsilon is not None and isfinite(self.epsilon)

    def __str__(self) -> str:
        return self._lines([f"if: {a}" for a in self.assumptions])

    def numbered(self, numbers: Mapping[str, int]) -> str:
        """What is printed, with assumptions by their numbers in a list below.

        Args:
            numbers: of each assumption.

        Returns:
            The text.

        Example:
            >>> from jsplit.privacy import Statement
            >>> own = {"epsilon": 1.0, "delta": 1e-5, "assumptions": ("it is so",)}
            >>> said = Statement("lab", "labels", ("label",), "server", **own)
            >>> print(said.numbered({"it is so": 3}))
            labels (label) of lab against server: epsilon 1.0000 at delta 1e-05
              a guess is right in at most 73.2 %, by chance in 50 % (odds 2.72 to 1, but for delta)
              if: 3
        """
        known = ", ".join(str(numbers[a]) for a in self.assumptions)
        return self._lines([f"if: {known}"] if known else [])

    def _lines(self, conditions: list[str]) -> str:
        """What is printed, with lines of conditions."""
        names = ", ".join(self.fields)
        head = f"{self.about} ({names}) of {self.party} against {self.against}: "
        if self.epsilon is None or not self.holds:
            lines = [head + "none", *(f"why: {w}" for w in self.why)]
            return "\n  ".join([*lines, *(f"note: {n}" for n in self.notes)])
        # Rounded up: a printed epsilon may not be smaller than the one that holds.
        up = -(-self.epsilon * 1e4 // 1) / 1e4
        lines = [f"{head}epsilon {up:.4f} at delta {self.delta:g}"]
        if self.mu:
            lines.append(f"mu {self.mu:.4f} of Gaussian differential privacy")
        if self.times:
            drawn = ", ".join(f"{name} {n}" for name, n in self.times)
            lines.append(f"noise for one record: {drawn} times")
        lines += [f"neighbours: {self.adjacency}"] if self.adjacency else []
        which = "of which of the two it was " if self.adjacency else ""
        lines.append(_odds(self.epsilon, self.delta, which))
        lines += [f"{self.formula} ({self.source})"] if self.formula else []
        lines += conditions
        return "\n  ".join([*lines, *(f"note: {n}" for n in self.notes)])


def _odds(epsilon: float, delta: float, which: str) -> str:
    """An epsilon in words: what it allows whoever guesses between two neighbours."""
    # Whoever is right more often would tell the two apart better than (epsilon, delta) lets:
    # by its definition both errors together are at least 2 (1 - delta) / (1 + e^epsilon).
    away = exp(-epsilon)
    right = 1 - (1 - delta) * away / (1 + away)
    # Both rounded up, and e^epsilon does not overflow.
    percent = ceil(right * 1000) / 10
    odds = f"{ceil(exp(epsilon) * 100) / 100:.2f}" if epsilon < 10 else "e^epsilon"
    return (
        f"a guess {which}is right in at most {percent:g} %, by chance in 50 % "
        f"(odds {odds} to 1{', but for delta' * (delta > 0)})"
    )


@dataclass(frozen=True)
class Guarantee:
    """All statements about a training. `print` shows them.

    Attributes:
        statements: by party whose records they are, and against whom.

    Example:
        >>> from jsplit.privacy import Guarantee, Statement
        >>> none = Statement("lab", "labels", ("label",), "server", why=("no noise",))
        >>> Guarantee((none,)).of("lab", "server", "labels").holds
        False
    """

    statements: tuple[Statement, ...]

    def of(self, party: str, against: str, about: str = "features") -> Statement:
        """The statement about one party's records against another.

        Args:
            party: whose records.
            against: who is meant, as in `Statement.against`.
            about: `"features"` or `"labels"`.

        Returns:
            The statement.

        Raises:
            ValueError: if there is none, naming those that there are.

        Example:
            >>> from jsplit.privacy import Guarantee, Statement
            >>> some = Guarantee((Statement("lab", "labels", ("label",), "server"),))
            >>> some.of("lab", "server", "labels").fields
            ('label',)
        """
        for s in self.statements:
            if (s.party, s.against, s.about) == (party, against, about):
                return s
        there = "; ".join(
            f"{s.about} of {s.party} against {s.against}" for s in self.statements
        )
        raise ValueError(
            f"There is no statement about {about} of {party} against {against}; there "
            f"are {there or 'none'}."
        )

    def json(self) -> str:
        """All statements as JSON: a list of objects with the attributes of `Statement`.

        Returns:
            A text of JSON. An epsilon of `null` is no guarantee.

        Example:
            >>> import json
            >>> from jsplit.privacy import Guarantee, Statement
            >>> some = Guarantee((Statement("lab", "labels", ("label",), "server"),))
            >>> json.loads(some.json())[0]["epsilon"] is None
            True
        """
        rows = [asdict(s) for s in self.statements]
        for row in rows:
            # Infinity is not in JSON, and is no guarantee.
            row["epsilon"] = row["epsilon"] if row["epsilon"] != float("inf") else None
            row["times"] = dict(row["times"])
        return json.dumps(rows, indent=1, allow_nan=False)

    def __str__(self) -> str:
        # Most statements share most assumptions: under each they would bury it.
        every = dict.fromkeys(a for s in self.statements for a in s.assumptions)
        numbers = {a: i for i, a in enumerate(every, 1)}
        lines = [s.numbered(numbers) for s in self.statements]
        if numbers:
            lines.append("if, by number:")
            lines += [f"  {i}. {a}" for a, i in numbers.items()]
        return "\n".join(lines) or "nothing is held by anybody"

    __repr__ = __str__
