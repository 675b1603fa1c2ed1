"""A statement: whose records are guaranteed what against whom, or none and why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite


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
        lines += [f"{self.formula} ({self.source})"] if self.formula else []
        lines += [f"if: {a}" for a in self.assumptions]
        return "\n  ".join([*lines, *(f"note: {n}" for n in self.notes)])


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
        return "\n".join(map(str, self.statements)) or "nothing is held by anybody"

    __repr__ = __str__
